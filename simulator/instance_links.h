// What instances of one model send each other beside their steps: caches, and the queries of attention over
// caches that lie elsewhere with what comes back (LoongServe, Infinite-LLM).
#pragma once

#include "simulator/step_model.h"

namespace foretoken {

// Whether two instances, numbered in the order of their devices, lie on several nodes, or one of them does.
bool crosses_nodes(const Deployment& d, std::int32_t a, std::int32_t b);
// Of so many bytes from each device of an instance to its peer in another one, once in each layer.
Picoseconds send_time(const Deployment& d, double bytes, bool over_network);
// Queries of so many tokens to other instances; back come the results of partial attention with the maximum
// and the sum of each head's softmax.
Picoseconds query_exchange(const Deployment& d, std::int64_t tokens, bool over_network);
double kv_bytes_of_layer(const Deployment& d);  // a token's, on one device
PricedPart link_part(Picoseconds time);

}  // namespace foretoken
