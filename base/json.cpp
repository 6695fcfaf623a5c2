// Strict JSON reading (a SAX handler over nlohmann's iterative parser) and stable writing.
#include "base/json.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <iterator>
#include <optional>
#include <set>
#include <stdexcept>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/table.h"

namespace foretoken {
namespace {

constexpr std::size_t kDeepest = 100;

// The SAX events carry no position, so the input iterator notes how far the lexer has come.
struct TrackedInput {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** furthest;

  reference operator*() const { return *at; }
  TrackedInput& operator++() {
    *furthest = ++at;
    return *this;
  }
  TrackedInput operator++(int) {
    TrackedInput before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackedInput& other) const { return at == other.at; }
  bool operator!=(const TrackedInput& other) const { return at != other.at; }
};

class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& where)
      : text_(text), where_(where), furthest_(text.data()) {}

  Json take() { return std::move(root_); }
  const char** furthest() { return &furthest_; }

  bool null() override { return place(nullptr); }
  bool boolean(bool v) override { return place(v); }
  bool number_integer(number_integer_t v) override { return place(v); }
  bool number_unsigned(number_unsigned_t v) override { return place(v); }
  bool number_float(number_float_t v, const string_t&) override { return place(v); }
  bool string(string_t& v) override { return place(std::move(v)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second)
      fail(key_start(), fmt::format("the key \"{}\" occurs twice", name));
    // Known to be new, so append without ordered_map's linear search.
    open_.back()->get_ref<Json::object_t&>().emplace_back(name, Json());
    return true;
  }

  bool parse_error(std::size_t position, const std::string& last,
                   const nlohmann::detail::exception& e) override {
    std::string message =
        e.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax ..."
    if (const auto at = message.find("] "); at != std::string::npos) message.erase(0, at + 2);
    if (message.starts_with("parse error at"))
      if (const auto at = message.find(": "); at != std::string::npos) message.erase(0, at + 2);
    if (text_.find_first_not_of(" \t\r\n") == std::string_view::npos)
      fail(0, "the file is empty; JSON is expected");
    if (message.find("number overflow") != std::string::npos)
      message = fmt::format("the number {} is too large", last);
    fail(position > 0 ? position - 1 : 0, message);
  }

 private:
  template <class V>
  bool place(V&& value) {
    put(Json(std::forward<V>(value)));
    return true;
  }

  Json* put(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    // Pointers into the parent stay valid: it does not grow while a child is open.
    Json& slot =
        parent.is_array() ? parent.emplace_back(nullptr) : parent.get_ref<Json::object_t&>().back().second;
    slot = std::move(value);
    return &slot;
  }

  bool open(Json container) {
    if (open_.size() >= kDeepest)
      fail(offset() - 1, fmt::format("nested more than {} levels deep", kDeepest));
    open_.push_back(put(std::move(container)));
    keys_.emplace_back();
    return true;
  }

  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  std::size_t offset() const { return static_cast<std::size_t>(furthest_ - text_.data()); }

  // The opening quote of the key whose closing quote was read last.
  std::size_t key_start() const {
    std::size_t at = offset();
    if (at < 2) return 0;
    for (at -= 2; at > 0; --at) {
      if (text_[at] != '"') continue;
      std::size_t slashes = 0;
      while (slashes < at && text_[at - 1 - slashes] == '\\') ++slashes;
      if (slashes % 2 == 0) break;
    }
    return at;
  }

  [[noreturn]] void fail(std::size_t at, const std::string& message) const {
    at = std::min(at, text_.size());
    std::size_t line = 1, start = 0;
    for (std::size_t i = 0; i < at; ++i) {
      if (text_[i] != '\n') continue;
      ++line;
      start = i + 1;
    }
    throw Error(fmt::format("{}:{}:{}", where_, line, at - start + 1), message);
  }

  std::string_view text_;
  const std::string& where_;
  const char* furthest_;
  Json root_;
  std::vector<Json*> open_;
  std::vector<std::set<std::string>> keys_;
};

// A line of a trace at a tenth of the cost: one object of numbers, plain texts and arrays of these. Whatever
// else the text holds, errors among it, is left to the complete parser.
class PlainReader {
 public:
  explicit PlainReader(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

  std::optional<Json> read() {
    Json json = Json::object();
    if (!next('{') || !members(json.get_ref<Json::object_t&>()) || !next('}')) return std::nullopt;
    skip_blanks();
    if (at_ != end_) return std::nullopt;
    return json;
  }

 private:
  static constexpr std::size_t kMostKeys = 32, kMostDigits = 18;  // a whole number has 64 bits

  bool members(Json::object_t& object) {
    do {
      std::string key;
      if (object.size() == kMostKeys || !next('"') || !text(key) || !next(':')) return false;
      for (const auto& [other, value] : object)
        if (other == key) return false;
      Json& value = object.emplace_back(std::move(key), Json()).second;
      if (next('[')) {
        value = Json::array();
        do {
          if (!scalar(value.emplace_back(nullptr))) return false;
        } while (next(','));
        if (!next(']')) return false;
      } else if (!scalar(value)) {
        return false;
      }
    } while (next(','));
    return true;
  }

  bool scalar(Json& value) {
    if (next('"')) {
      std::string string;
      if (!text(string)) return false;
      value = std::move(string);
      return true;
    }
    const char* const begin = at_;
    const bool negative = next('-');
    const char* const digits = at_;
    std::uint64_t number = 0;
    for (; at_ != end_ && *at_ >= '0' && *at_ <= '9'; ++at_)
      number = 10 * number + static_cast<std::uint64_t>(*at_ - '0');
    const auto count = static_cast<std::size_t>(at_ - digits);
    if (count == 0 || count > kMostDigits || (*digits == '0' && (count > 1 || negative)) || at_ == end_)
      return false;
    if (*at_ == '.') {
      double fraction = 0;
      const auto [last, error] = std::from_chars(begin, end_, fraction, std::chars_format::fixed);
      if (error != std::errc() || last - at_ < 2 || last == end_ || *last == 'e' || *last == 'E')
        return false;
      at_ = last;
      value = fraction;
    } else if (negative) {
      value = -static_cast<std::int64_t>(number);
    } else {
      value = number;
    }
    return true;
  }

  // Up to the closing quote.
  bool text(std::string& string) {
    const char* const begin = at_;
    while (at_ != end_ && *at_ >= ' ' && *at_ < '\x7f' && *at_ != '"' && *at_ != '\\') ++at_;
    string.assign(begin, at_);
    return at_ != end_ && *at_++ == '"';
  }

  void skip_blanks() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) ++at_;
  }
  bool next(char c) {
    skip_blanks();
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }

  const char* at_;
  const char* end_;
};

void check_finite(const Json& json, const std::string& pointer) {
  if (json.is_number_float() && !std::isfinite(json.get<double>()))
    throw std::logic_error(fmt::format("{}: a number that is not finite cannot be written as JSON", pointer));
  if (json.is_object()) {
    for (const auto& [key, value] : json.items()) check_finite(value, pointer + "/" + key);
  } else if (json.is_array()) {
    for (std::size_t i = 0; i < json.size(); ++i) {
      // Long arrays of numbers are common; name the element only when it is wrong or structured.
      const Json& value = json[i];
      if (value.is_structured() || (value.is_number_float() && !std::isfinite(value.get<double>())))
        check_finite(value, fmt::format("{}/{}", pointer, i));
    }
  }
}

Json cell_json(const Cell& cell) {
  return std::visit(
      [](const auto& v) {
        using V = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<V, std::monostate>) {
          return Json(nullptr);
        } else if constexpr (std::is_same_v<V, double>) {
          return std::isfinite(v) ? Json(v) : Json(nullptr);
        } else {
          return Json(v);
        }
      },
      cell);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  if (std::optional<Json> plain = PlainReader(text).read()) return *std::move(plain);
  Builder builder(text, where);
  const TrackedInput first{text.data(), builder.furthest()},
      last{text.data() + text.size(), builder.furthest()};
  constexpr bool kStrict = true, kComments = true;
  Json::sax_parse(first, last, &builder, Json::input_format_t::json, kStrict, kComments);
  return builder.take();
}

Json read_json(const std::filesystem::path& path) { return parse_json(read_file(path), path.string()); }

std::string dump_json(const Json& json, int indent) {
  check_finite(json, "");
  std::string text = json.dump(indent, ' ', false, Json::error_handler_t::replace);
  if (indent >= 0) text += '\n';
  return text;
}

Json to_json(const Table& table) {
  Json rows = Json::array();
  for (const auto& row : table.rows) {
    if (row.size() > table.columns.size()) throw std::logic_error("a table row has more cells than columns");
    Json object = Json::object();
    for (std::size_t c = 0; c < table.columns.size(); ++c)
      object[table.columns[c].key] = c < row.size() ? cell_json(row[c]) : Json(nullptr);
    rows.push_back(std::move(object));
  }
  return rows;
}

}  // namespace foretoken
