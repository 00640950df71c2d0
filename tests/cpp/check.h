// The little a C++ test here needs: CHECK counts what does not hold and says where.
#pragma once

#include <cstdio>
#include <exception>
#include <string>

inline int failures = 0;

#define CHECK(condition, ...)                                              \
  do {                                                                     \
    if (!(condition) && ++failures <= 20) {                                \
      std::fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                   \
      std::fputc('\n', stderr);                                            \
    }                                                                      \
  } while (false)

// The message of what f throws; empty if it throws nothing.
template <typename F>
std::string message_of(F f) {
  try {
    f();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

// What main returns.
inline int report() {
  std::printf("%d checks failed\n", failures);
  return failures != 0;
}
