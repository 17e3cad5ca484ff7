// Latents and labels by the contract of docs/contracts.md: image i of a seed is the same image in every language.
// Copy this file; it needs nothing but the standard library. Numbers are double, so normals are within 1e-6 of the contract's.

#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dcgan {

// Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw, SC 2011): two random words of a seed for the counter (i, j).
inline std::array<std::uint32_t, 2> threefry2x32(std::uint64_t seed, std::uint32_t i, std::uint32_t j) {
  constexpr std::uint32_t parity = 0x1BD11BDA;
  constexpr int rotations[] = {13, 15, 26, 6, 17, 29, 16, 24};
  const auto low = static_cast<std::uint32_t>(seed), high = static_cast<std::uint32_t>(seed >> 32);
  const std::uint32_t keys[] = {low, high, parity ^ low ^ high};
  std::uint32_t x0 = i + low, x1 = j + high;
  for (std::uint32_t round = 0; round < 20; ++round) {
    const int distance = rotations[round % 8];
    x0 += x1;
    x1 = (x1 << distance | x1 >> (32 - distance)) ^ x0;
    if (round % 4 == 3) {
      const std::uint32_t step = round / 4 + 1;
      x0 += keys[step % 3];
      x1 += keys[(step + 1) % 3] + step;
    }
  }
  return {x0, x1};
}

// Latents 0 to n - 1 of a seed from 0 to 2^63 - 1: n * latent_dim standard normals, row by row.
inline std::vector<float> latents(std::uint64_t seed, std::uint32_t n, std::size_t latent_dim) {
  constexpr double tau = 6.283185307179586477;
  std::vector<float> z(n * latent_dim);
  for (std::uint32_t i = 0; i < n; ++i) {
    float* row = z.data() + i * latent_dim;
    for (std::size_t at = 0; at < latent_dim; at += 2) {
      const auto [x0, x1] = threefry2x32(seed, i, static_cast<std::uint32_t>(at / 2));
      const double radius = std::sqrt(-2 * std::log(((x0 >> 8) + 1) * 0x1p-24));  // Box and Muller (1958)
      const double angle = tau * (x1 >> 8) * 0x1p-24;
      row[at] = static_cast<float>(radius * std::cos(angle));
      if (at + 1 < latent_dim) row[at + 1] = static_cast<float>(radius * std::sin(angle));
    }
  }
  return z;
}

// The label that a seed draws for latent i: 0 to classes - 1.
inline std::int64_t label(std::uint64_t seed, std::uint32_t i, std::uint32_t classes) {
  constexpr std::uint32_t label_counter = 65536;
  return static_cast<std::int64_t>(std::uint64_t{classes} * threefry2x32(seed, i, label_counter)[0] >> 32);
}

}  // namespace dcgan
