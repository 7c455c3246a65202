// Errors of the library become the project's own; std::invalid_argument becomes ValueError by itself.
#include "astra/base/errors.h"

#include "bindings/bindings.h"

namespace bindings {
namespace {

void raise(const char* name, const char* message) {
  nanobind::object error = nanobind::module_::import_("llmservingsim.errors").attr(name);
  PyErr_SetString(error.ptr(), message);
}

void translate(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const astra::DeadlockError& error) {
    raise("DeadlockError", error.what());
  } catch (const astra::InvariantError& error) {
    raise("InvariantError", error.what());
  }
}

}  // namespace

void bind_errors(nanobind::module_&) { nanobind::register_exception_translator(translate); }

}  // namespace bindings
