#include "cli/help.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace foretoken {
namespace {

constexpr std::size_t kWidth = 100, kColumn = 34;

// `text` from column kColumn on, broken between words.
std::string wrapped(const std::string& text) {
  std::string out, line;
  for (const std::string& word : split(text, ' ')) {
    if (!line.empty() && kColumn + line.size() + 1 + word.size() > kWidth) {
      out += line + "\n" + std::string(kColumn, ' ');
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return out + line + "\n";
}

std::string entry(const std::string& left, const std::string& text) {
  const std::string start = "  " + left;
  if (start.size() + 2 > kColumn) return start + "\n" + std::string(kColumn, ' ') + wrapped(text);
  return start + std::string(kColumn - start.size(), ' ') + wrapped(text);
}

std::string option_left(const OptionSpec& o) {
  std::string s = o.letter != 0 ? fmt::format("-{}, --", o.letter) : "--";
  if (o.negatable) s += "[no-]";
  s += o.name;
  return o.value.empty() ? s : s + " " + o.value;
}

std::string option_text(const OptionSpec& o) {
  return o.choices.empty() ? o.help : o.help + ": " + join(o.choices, ", ");
}

std::string one_verb(const VerbSpec& v) {
  std::string s =
      "usage: foretoken " + v.name + (v.arguments.empty() ? "" : " " + v.arguments) + " [flags]\n\n";
  s += v.help + "\n\nexamples:\n";
  for (const std::string& e : v.examples) s += "  " + e + "\n";
  s += "\nflags:\n";
  std::string section;
  for (const OptionSpec& o : v.options) {
    if (o.section != section) {
      section = o.section;
      s += "\n" + (section == "scenario" ? std::string("scenario") : "scenario, " + section) + ":\n";
    }
    s += entry(option_left(o), option_text(o));
  }
  s += entry("-h, --help", "this text");
  if (v.takes_scenario)
    s += "\nA scenario may be a file, flags, or a file with flags over it. A flag may hold a list "
         "(1,2,4)\nor a range (1-64*2, 1-8+1): plan searches them, estimate and simulate answer each "
         "combination.\nA LENGTH is a number of tokens or lognormal:mean=1200,p99=8000.\n";
  return s;
}

}  // namespace

std::string overview(const std::vector<VerbSpec>& verbs) {
  std::string s =
      "foretoken predicts latency, memory and cost of large-language-model deployments.\n\n"
      "usage: foretoken VERB [arguments] [flags]\n\nverbs:\n";
  for (const VerbSpec& v : verbs)
    if (!v.hidden) s += entry(v.name + (v.arguments.empty() ? "" : " " + v.arguments), v.help);
  s += "\nexamples:\n";
  for (const VerbSpec& v : verbs)
    if (!v.hidden) s += "  " + v.examples.front() + "\n";
  s +=
      "\n`foretoken VERB --help` lists the flags of a verb; `foretoken --version` says what this build is.\n";
  return s;
}

std::string verb_help(const std::vector<VerbSpec>& verbs, const std::string& verb) {
  std::vector<VerbSpec> group;
  for (const VerbSpec& v : verbs) {
    if (v.name == verb) return one_verb(v);
    if (v.name.rfind(verb + " ", 0) == 0) group.push_back(v);
  }
  return overview(group.empty() ? verbs : group);
}

std::string cli_reference(const std::vector<VerbSpec>& verbs) {
  std::string s =
      "# Command line\n\nMade by `foretoken reference cli`; a test compares it with the program.\n\n";
  s += "Exit codes: 0 done; 1 the verdict is negative (no feasible plan, does not fit, SLO missed with\n"
       "`--require-slo`); 2 something that you can mend (input, files, disk); 3 a fault; 130 interrupted.\n"
       "Results go to stdout, progress and warnings to stderr.\n";
  std::vector<OptionSpec> scenario;
  for (const VerbSpec& v : verbs) {
    if (v.hidden) continue;
    s += fmt::format("\n## foretoken {}{}\n\n{}\n\n```\n", v.name,
                     v.arguments.empty() ? "" : " " + v.arguments, v.help);
    for (const std::string& e : v.examples) s += e + "\n";
    s += "```\n\n";
    if (v.options.empty()) continue;
    s += "| flag | meaning |\n|---|---|\n";
    for (const OptionSpec& o : v.options) {
      if (o.section.empty()) s += fmt::format("| `{}` | {} |\n", option_left(o), option_text(o));
    }
    if (v.takes_scenario) {
      s += "\nAnd the [scenario flags](#scenario-flags).\n";
      scenario = v.options;
    }
  }
  s +=
      "\n## Scenario flags\n\nEvery key of the [scenario](scenario.md) is a flag: its last name with "
      "dashes, with the "
      "section's name\nbefore it where two share it. A flag may hold a list (`1,2,4`) or a range with both "
      "ends\n(`1-64*2`, `1-8+1`): `plan` searches them, `estimate` and `simulate` answer each combination in "
      "a row of a table.\n\n| section | flag | meaning "
      "|\n|---|---|---|\n";
  for (const OptionSpec& o : scenario)
    if (!o.section.empty())
      s += fmt::format("| {} | `{}` | {} |\n", o.section, option_left(o), option_text(o));
  return s;
}

}  // namespace foretoken
