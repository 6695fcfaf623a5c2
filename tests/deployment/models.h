// Models and devices written out by hand, so that the tests of this layer depend on no preset and no
// database.
#pragma once

#include <string>

#include "deployment/deployment.h"

namespace foretoken {

ModelConfig llama_8b();        // Llama-3.1-8B
ModelConfig llama_70b();       // Llama-3.1-70B
ModelConfig deepseek_v3();     // 61 layers, 256 experts, fp8_block checkpoint
ModelConfig gemma_like();      // windows on half of the layers
ModelConfig recurrent_only();  // state-space layers alone

Device h100();
Device h200();
Device a100();
Topology nvlink_node();

// A scenario of a device with everything else left to defaults.
Scenario scenario_on(const std::string& device, int tensor_parallel = 1);

Deployment deployment_of(const std::variant<Deployment, Infeasible>& result);  // throws where it is a verdict
Infeasible verdict_of(const std::variant<Deployment, Infeasible>& result);

// Message of the Error that f() throws, with its place; "no error" otherwise.
template <class F>
std::string error_of(F&& f);

}  // namespace foretoken

#include "base/error.h"

template <class F>
std::string foretoken::error_of(F&& f) {
  try {
    f();
  } catch (const foretoken::Error& e) {
    return e.what();
  }
  return "no error";
}
