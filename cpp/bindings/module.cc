#include "bindings/bindings.h"

NB_MODULE(_native, module) {
  module.doc() = "The native backend: times execution graphs the way ASTRA-sim does.";
  bindings::bind_errors(module);
  bindings::bind_configs(module);
  bindings::bind_system(module);
  bindings::bind_simulation(module);
}
