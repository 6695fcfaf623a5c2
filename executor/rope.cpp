// The frequencies that Hugging Face's modeling_rope_utils.py computes (4.57 and 5), for every kind of scaling
// there.
#include "executor/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/json_full.h"

namespace foretoken {

double number_or(const ConfigReader& r, const char* key, double otherwise) {
  const Json* value = r.find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_number()) r.fail(key, "expected a number");
  const double v = value->get<double>();
  if (!std::isfinite(v)) r.fail(key, "expected a finite number");
  return v;
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

namespace {

struct Scaling {
  const ConfigReader& config;
  const ConfigReader& own;
  std::int64_t dim;  // turned dims
  double theta;
  std::int64_t longest;

  double needed(const char* key) const {
    if (!own.has(key)) own.fail(key, "missing; this kind of rope scaling needs it");
    const double v = number_or(own, key, 0);
    if (!(v > 0)) own.fail(key, fmt::format("{} is not above 0", v));
    return v;
  }
  // In the scaling's object, or (before version 5) beside it.
  double original_positions() const {
    for (const ConfigReader* r : {&own, &config})
      if (r->has("original_max_position_embeddings"))
        return static_cast<double>(r->size({"original_max_position_embeddings"}, kMaxPositions));
    return max_positions();
  }
  double max_positions() const {
    return static_cast<double>(config.size({"max_position_embeddings"}, kMaxPositions));
  }
  std::vector<double> factors(const char* key) const {
    const Json* list = own.find(key);
    if (list == nullptr || !list->is_array() || static_cast<std::int64_t>(list->size()) != dim / 2)
      own.fail(key, fmt::format("expected a list of {} numbers, one a pair of rotated dims", dim / 2));
    std::vector<double> out;
    for (const Json& v : *list) {
      if (!v.is_number() || !(v.get<double>() > 0)) own.fail(key, "expected numbers above 0");
      out.push_back(v.get<double>());
    }
    return out;
  }
};

std::vector<double> frequencies(double theta, std::int64_t dim) {
  std::vector<double> f;
  for (std::int64_t i = 0; i < dim; i += 2)
    f.push_back(std::pow(theta, -static_cast<double>(i) / static_cast<double>(dim)));
  return f;
}

// Grattafiori et al. 2024 (Llama 3.1): long wavelengths are stretched, short ones stay, smoothly between.
void scale_llama3(const Scaling& s, std::vector<double>& f) {
  const double factor = s.needed("factor"), low = s.needed("low_freq_factor"),
               high = s.needed("high_freq_factor"), original = s.original_positions();
  if (!(high > low)) s.own.fail("high_freq_factor", "is not above low_freq_factor");
  for (double& v : f) {
    const double wavelength = 2 * std::numbers::pi / v;
    const double smooth = std::clamp((original / wavelength - low) / (high - low), 0.0, 1.0);
    v = (1 - smooth) * v / factor + smooth * v;
  }
}

// Peng et al. 2023 (YaRN), section 3: returns the factor of cosines and sines.
double scale_yarn(const Scaling& s, std::vector<double>& f) {
  const double factor = s.needed("factor");
  const double original = s.original_positions();
  const auto dim = static_cast<double>(s.dim);
  const auto fast = number_or(s.own, "beta_fast", 32), slow = number_or(s.own, "beta_slow", 1);
  if (!(fast > 0)) s.own.fail("beta_fast", "is not above 0");
  if (!(slow > 0)) s.own.fail("beta_slow", "is not above 0");
  const auto turning = [&](double rotations) {
    return dim * std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(s.theta));
  };
  double low = turning(fast), high = turning(slow);
  if (s.own.flag_or({"truncate"}, true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < f.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    f[i] = f[i] / factor * ramp + f[i] * (1 - ramp);
  }
  const double mscale = number_or(s.own, "mscale", 0), all = number_or(s.own, "mscale_all_dim", 0);
  const double otherwise = mscale != 0 && all != 0 ? yarn_mscale(factor, mscale) / yarn_mscale(factor, all)
                                                   : yarn_mscale(factor, 1);
  return number_or(s.own, "attention_factor", otherwise);
}

// Ding et al. 2024 (LongRoPE).
double scale_longrope(const Scaling& s, std::vector<double>& f) {
  const double original = s.original_positions();
  const bool given =
      s.own.has("original_max_position_embeddings") || s.config.has("original_max_position_embeddings");
  const double factor = given ? s.max_positions() / original : s.needed("factor");
  const auto long_factors = s.factors("long_factor"), short_factors = s.factors("short_factor");
  const bool is_long = static_cast<double>(s.longest) > original;
  for (std::size_t i = 0; i < f.size(); ++i) f[i] /= is_long ? long_factors[i] : short_factors[i];
  const double otherwise = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
  return number_or(s.own, "attention_factor", otherwise);
}

}  // namespace

Rope read_rope(const ConfigReader& config, const ConfigReader* parameters, const RopeSettings& settings) {
  const Json nothing = Json::object();
  const ConfigReader none(nothing, config.path("rope_scaling"));
  const ConfigReader& own = parameters != nullptr ? *parameters : none;
  const double theta = number_or(own, "rope_theta", number_or(config, "rope_theta", settings.theta));
  if (!(theta > 1)) config.fail("rope_theta", fmt::format("{} is not above 1", theta));
  const double partial =
      number_or(own, "partial_rotary_factor", number_or(config, "partial_rotary_factor", settings.partial));
  const auto dim = static_cast<std::int64_t>(static_cast<double>(settings.dim) * partial);
  if (dim < 2 || dim > settings.dim || dim % 2 != 0)
    config.fail("partial_rotary_factor",
                fmt::format("{} of heads of {} turns {} dims; expected an even number of them", partial,
                            settings.dim, dim));
  const Scaling s{config, own, dim, theta, settings.longest};
  const std::string type = own.text_or("rope_type", own.text_or("type", "default"));
  std::vector<double> f = frequencies(theta, dim);
  double scale = 1;
  if (type == "linear") {
    const double factor = s.needed("factor");
    for (double& v : f) v /= factor;
  } else if (type == "dynamic") {
    const double factor = s.needed("factor"), positions = s.max_positions();
    const double length = std::max(static_cast<double>(settings.longest), positions);
    const auto d = static_cast<double>(dim);
    if (dim == 2) own.fail("rope_type", "dynamic scaling needs more than one pair of rotated dims");
    f = frequencies(theta * std::pow(factor * length / positions - (factor - 1), d / (d - 2)), dim);
  } else if (type == "llama3") {
    scale_llama3(s, f);
  } else if (type == "yarn") {
    scale = scale_yarn(s, f);
  } else if (type == "longrope" || type == "su") {
    scale = scale_longrope(s, f);
  } else if (type != "default") {
    own.fail("rope_type", fmt::format("\"{}\" is not computed; these are: default, linear, dynamic, llama3, "
                                      "yarn, longrope",
                                      type));
  }
  // Mistral's later models scale queries by position beside the rotation.
  if (number_or(own, "llama_4_scaling_beta", 0) != 0)
    own.fail("llama_4_scaling_beta", "is not computed: the executor does not scale queries by position");
  Rope rope;
  for (const double v : f) rope.inverse_frequencies.push_back(static_cast<float>(v));
  rope.scale = static_cast<float>(scale);
  return rope;
}

}  // namespace foretoken
