// Runs every test; the exit status is the number of those that failed.
#include <cstdio>
#include <exception>
#include <stdexcept>

#include "check.h"

Tests collective_tests();
Tests device_memory_tests();
Tests event_tests();
Tests flat_map_tests();
Tests flow_memory_tests();
Tests flow_network_tests();
Tests graph_tests();
Tests memory_tests();
Tests network_tests();
Tests queueing_network_tests();
Tests simulation_tests();

void fail(const char* file, int line, const std::string& what) {
  throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

int main() {
  int failed = 0;
  int passed = 0;
  for (const Tests& tests : {flat_map_tests(), event_tests(), network_tests(), queueing_network_tests(),
                             flow_network_tests(), collective_tests(), memory_tests(), device_memory_tests(),
                             flow_memory_tests(), graph_tests(), simulation_tests()}) {
    for (const Test& test : tests) {
      try {
        test.body();
        ++passed;
      } catch (const std::exception& error) {
        ++failed;
        std::printf("FAILED: %s\n  %s\n", test.sentence, error.what());
      }
    }
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed;
}
