// Random numbers that are the same everywhere: xoshiro256** seeded by splitmix64 (Blackman and Vigna,
// prng.di.unimi.it). The distributions of <random> differ between standard libraries, so they are not used.
#pragma once

#include <bit>
#include <cstdint>

namespace r1::rt {

inline std::uint64_t splitmix64(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

inline void seed_xoshiro256(std::uint64_t (&s)[4], std::uint64_t seed) {
  for (std::uint64_t& word : s) word = splitmix64(seed);
}

inline std::uint64_t xoshiro256(std::uint64_t (&s)[4]) {
  const std::uint64_t result = std::rotl(s[1] * 5, 7) * 9;
  const std::uint64_t t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = std::rotl(s[3], 45);
  return result;
}

// Uniform in [0, 1), 53 bits.
inline double uniform(std::uint64_t (&s)[4]) {
  return static_cast<double>(xoshiro256(s) >> 11) * 0x1p-53;
}

}  // namespace r1::rt
