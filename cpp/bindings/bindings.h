// One function per bound class or group of errors.
#pragma once

#include <nanobind/nanobind.h>

namespace bindings {

void bind_errors(nanobind::module_& module);
void bind_configs(nanobind::module_& module);
void bind_system(nanobind::module_& module);
void bind_simulation(nanobind::module_& module);

}  // namespace bindings
