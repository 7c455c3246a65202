// One function per bound class or group of errors.
#pragma once

#include <nanobind/nanobind.h>

#include "astra/simulation.h"

namespace bindings {

void bind_errors(nanobind::module_& module);
void bind_configs(nanobind::module_& module);
void bind_system(nanobind::module_& module);
void bind_memory(nanobind::module_& module);
void bind_simulation(nanobind::module_& module);

// What each memory that is configured did, by its name in the configuration.
nanobind::dict memory_use(const astra::Simulation& simulation);
nanobind::dict memory_link_use(const astra::Simulation& simulation);

}  // namespace bindings
