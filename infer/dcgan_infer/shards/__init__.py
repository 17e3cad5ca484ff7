"""Any number of labelled images, in files of equal size that many machines can make side by side.

    python -c "from dcgan_infer.shards.images import ShardedImages; print(ShardedImages('DIR')[0])"

plan.py     what a set of shards holds, and its names
formats.py  one shard: Parquet, tar as WebDataset reads it, or .npy
stores.py   where shards go: a folder, or an object store through fsspec
make.py     making those that are missing, and the manifest
ray_engine.py  the same on a Ray cluster
images.py   reading them back
"""
