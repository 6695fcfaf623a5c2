// The only file that includes CLI11: it costs four seconds of compilation.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>

#include "base/error.h"
#include "base/text.h"
#include "cli/command.h"

namespace foretoken {
namespace {

// One verb's parser and where its options come out.
struct VerbParser {
  const VerbSpec* spec = nullptr;
  CLI::App* app = nullptr;
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, CLI::Option*>> options, negations;
  std::vector<std::unique_ptr<std::string>> sinks;
  bool help = false;
};

void add_option(VerbParser& parser, const OptionSpec& spec) {
  const std::string names = (spec.letter != 0 ? fmt::format("-{},", spec.letter) : "") + "--" + spec.name;
  std::string& sink = *parser.sinks.emplace_back(std::make_unique<std::string>());
  if (!spec.value.empty()) {
    auto* option = parser.app->add_option(names, sink)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    parser.options.emplace_back(spec.name, option);
    return;
  }
  auto* option = parser.app->add_flag(names, sink)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  parser.options.emplace_back(spec.name, option);
  if (!spec.negatable) return;
  std::string& no = *parser.sinks.emplace_back(std::make_unique<std::string>());
  parser.negations.emplace_back(spec.name, parser.app->add_flag("--no-" + spec.name, no));
}

void build(VerbParser& parser, CLI::App& root, const VerbSpec& spec,
           std::map<std::string, CLI::App*>& groups) {
  parser.spec = &spec;
  const auto words = split(spec.name, ' ');
  CLI::App* parent = &root;
  if (words.size() == 2) {
    CLI::App*& group = groups[words[0]];
    if (group == nullptr) {
      group = root.add_subcommand(words[0]);
      group->set_help_flag();
      group->allow_extras();
    }
    parent = group;
  }
  parser.app = parent->add_subcommand(words.back());
  parser.app->set_help_flag();
  parser.app->allow_extras();
  parser.app->add_flag("-h,--help", parser.help);
  parser.app->add_option("arguments", parser.arguments);
  for (const OptionSpec& option : spec.options) add_option(parser, option);
}

bool is_flag(const std::string& s) { return s.size() > 1 && s[0] == '-'; }

[[noreturn]] void fail_unknown_verb(const std::string& name, const std::vector<VerbSpec>& verbs) {
  std::vector<std::string> known;
  for (const VerbSpec& v : verbs)
    if (!v.hidden) known.push_back(v.name);
  std::vector<std::string> first;
  for (const std::string& v : known) first.push_back(split(v, ' ')[0]);
  throw Error(name, "is not a verb" + did_you_mean(name, first) + "; there are: " + join(known, ", "));
}

[[noreturn]] void fail_unknown_flag(const std::string& given, const VerbSpec& spec) {
  const std::string name = given.substr(0, given.find('='));
  std::vector<std::string> known;
  for (const OptionSpec& o : spec.options) {
    known.push_back("--" + o.name);
    if (o.negatable) known.push_back("--no-" + o.name);
  }
  throw Error(name, "is not a flag of `foretoken " + spec.name + "`" + did_you_mean(name, known) +
                        "; `foretoken " + spec.name + " --help` lists them");
}

void check_arguments(const Invocation& invocation, const VerbSpec& spec) {
  const auto n = static_cast<int>(invocation.arguments.size());
  if (n < spec.least_arguments)
    throw Error(spec.name, fmt::format("needs {}; for example: {}", spec.arguments, spec.examples.front()));
  if (n > spec.most_arguments)
    throw Error(invocation.arguments[static_cast<std::size_t>(spec.most_arguments)],
                fmt::format("is one argument too many; `foretoken {}` takes {}", spec.name,
                            spec.arguments.empty() ? "none" : spec.arguments));
}

void check_choices(const Invocation& invocation, const VerbSpec& spec) {
  for (const OptionSpec& o : spec.options) {
    const auto given = invocation.value(o.name);
    if (!given || o.choices.empty() || !o.section.empty()) continue;
    if (std::find(o.choices.begin(), o.choices.end(), *given) == o.choices.end())
      throw Error("--" + o.name, fmt::format("\"{}\" is not one of {}{}", *given, join(o.choices, ", "),
                                             did_you_mean(*given, o.choices)));
  }
}

// No option collects values over several uses, so a second one would silently undo the first.
void check_repeats(const VerbParser& parser) {
  for (const auto& [name, option] : parser.options) {
    if (option->count() > 1)
      throw Error("--" + name,
                  "given twice; give it once (several values, where a flag takes them, are "
                  "divided by commas)");
    for (const auto& [negated, no] : parser.negations)
      if (negated == name && no->count() + option->count() > 1)
        throw Error("--no-" + name, "given twice, or beside --" + name + "; give one of them");
  }
}

// The verb that was parsed; null when only a group ("model") or nothing was named.
VerbParser* parsed(std::vector<std::unique_ptr<VerbParser>>& parsers) {
  for (auto& p : parsers)
    if (p->app->parsed()) return p.get();
  return nullptr;
}

Invocation without_verb(const CLI::App& root, const std::map<std::string, CLI::App*>& groups,
                        const std::vector<VerbSpec>& verbs, bool help, bool version) {
  if (version) return {"version", {}, {}};
  for (const auto& [name, group] : groups) {
    if (!group->parsed()) continue;
    const auto rest = group->remaining();
    if (help || rest.empty() || rest[0] == "--help" || rest[0] == "-h") return {"help", {name}, {}};
    fail_unknown_verb(name + " " + rest[0], verbs);
  }
  for (const std::string& word : root.remaining()) {
    if (is_flag(word))
      throw Error(
          word, "is not a flag of `foretoken`; flags follow the verb, as in `foretoken plan S " + word + "`");
    if (word == "help") return {"help", {}, {}};
    fail_unknown_verb(word, verbs);
  }
  return {"help", {}, {}};
}

}  // namespace

Invocation parse_command_line(int argc, const char* const* argv, const std::vector<VerbSpec>& verbs) {
  CLI::App root("foretoken");
  root.set_help_flag();
  root.allow_extras();
  bool help = false, version = false;
  root.add_flag("-h,--help", help);
  root.add_flag("--version", version);
  std::map<std::string, CLI::App*> groups;
  std::vector<std::unique_ptr<VerbParser>> parsers;
  for (const VerbSpec& spec : verbs)
    build(*parsers.emplace_back(std::make_unique<VerbParser>()), root, spec, groups);
  try {
    root.parse(argc, argv);
  } catch (const CLI::ArgumentMismatch& e) {
    // CLI11 says "--flag: 1 required TEXT missing".
    const std::string text = e.what();
    throw Error(text.substr(0, text.find(':')), "needs a value; see --help");
  } catch (const CLI::ParseError& e) {
    throw Error("", std::string(e.what()) + "; see --help");
  }

  VerbParser* parser = parsed(parsers);
  if (parser == nullptr) return without_verb(root, groups, verbs, help, version);
  if (parser->help || help) return {"help", {parser->spec->name}, {}};
  Invocation invocation{parser->spec->name, parser->arguments, {}};
  for (const std::string& word : parser->app->remaining()) {
    if (is_flag(word)) fail_unknown_flag(word, *parser->spec);
    invocation.arguments.push_back(word);
  }
  check_repeats(*parser);
  for (const auto& [name, option] : parser->options)
    if (option->count() > 0) invocation.values.emplace_back(name, option->results().back());
  for (const auto& [name, option] : parser->negations)
    if (option->count() > 0) invocation.values.emplace_back(name, "false");
  check_arguments(invocation, *parser->spec);
  check_choices(invocation, *parser->spec);
  return invocation;
}

}  // namespace foretoken
