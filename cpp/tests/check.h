// The whole of the test framework: a list of tests and two macros.
#pragma once

#include <functional>
#include <string>
#include <vector>

struct Test {
  const char* sentence;
  std::function<void()> body;
};

// The tests of one file, given to main.cc by a function declared there.
using Tests = std::vector<Test>;

[[noreturn]] void fail(const char* file, int line, const std::string& what);

#define CHECK(condition)                                    \
  do {                                                      \
    if (!(condition)) fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_THROWS(expression, error)                                          \
  do {                                                                           \
    bool thrown = false;                                                         \
    try {                                                                        \
      static_cast<void>(expression);                                             \
    } catch (const error&) {                                                     \
      thrown = true;                                                             \
    }                                                                            \
    if (!thrown) fail(__FILE__, __LINE__, #expression " did not throw " #error); \
  } while (false)
