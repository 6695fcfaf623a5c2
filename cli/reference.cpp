// The scenario reference page and the manual page.
#include <fmt/format.h>

#include "base/json_full.h"
#include "base/text.h"
#include "cli/help.h"
#include "cli/scenario_flags.h"

namespace foretoken {
namespace {

// roff takes a leading dot or quote as a request, and a hyphen as one that may be broken.
std::string roff(const std::string& text) {
  std::string s;
  for (const char c : text) {
    if (c == '\\')
      s += "\\e";
    else if (c == '-')
      s += "\\-";
    else
      s += c;
  }
  return s.empty() || (s[0] != '.' && s[0] != '\'') ? s : "\\&" + s;
}

std::string roff_option(const OptionSpec& o) {
  std::string s = ".TP\n.B " + roff((o.letter != 0 ? fmt::format("-{}, ", o.letter) : "") +
                                    (o.negatable ? "--[no-]" : "--") + o.name);
  if (!o.value.empty()) s += " " + roff(o.value);
  s += "\n" + roff(o.help);
  return s + (o.choices.empty() ? "" : roff(": " + join(o.choices, ", "))) + "\n";
}

}  // namespace

std::string manual_page(const std::vector<VerbSpec>& verbs, const std::string& version) {
  std::string s = fmt::format(".TH FORETOKEN 1 \"\" \"foretoken {}\" \"User Commands\"\n", version);
  s += ".SH NAME\nforetoken \\- predicts latency, memory and cost of large\\-language\\-model deployments\n"
       ".SH SYNOPSIS\n.B foretoken\n.I verb\n[arguments] [flags]\n.SH VERBS\n";
  std::vector<OptionSpec> scenario;
  for (const VerbSpec& v : verbs) {
    if (v.hidden) continue;
    s += ".SS " + roff("foretoken " + v.name + (v.arguments.empty() ? "" : " " + v.arguments)) + "\n" +
         roff(v.help) + "\n";
    s += ".PP\nExamples:\n.nf\n";
    for (const std::string& e : v.examples) s += "    " + roff(e) + "\n";
    s += ".fi\n";
    for (const OptionSpec& o : v.options)
      if (o.section.empty()) s += roff_option(o);
    if (v.takes_scenario) scenario = v.options;
  }
  s +=
      ".SH SCENARIO FLAGS\nEvery key of a scenario file is a flag of estimate, simulate, plan and compare.\n";
  for (const OptionSpec& o : scenario)
    if (!o.section.empty()) s += roff_option(o);
  s += ".SH EXIT STATUS\n0 done; 1 the verdict is negative; 2 something that you can mend; 3 a fault; 130 "
       "interrupted.\n"
       ".SH FILES\n.TP\n.I $XDG_DATA_HOME/foretoken/hw.sqlite\nyour measured operators, layered over the "
       "built\\-in "
       "database\n.TP\n.I $XDG_DATA_HOME/foretoken/product\\-choices.txt\nwhich way of each matrix product a "
       "GPU was found to make fastest; it may be removed\n.SH ENVIRONMENT\n.TP\n.B FORETOKEN_DATA\nfolder of "
       "the built\\-in database and presets\n"
       ".TP\n.B NO_COLOR\nno colours on a terminal\n";
  return s;
}

std::string scenario_reference() {
  std::string s =
      "# Scenario file\n\nMade by `foretoken reference scenario`; a test compares it with the program.\n\n"
      "JSON with `//` and `/* */` comments. Unknown keys are errors that name the nearest known key. Paths "
      "are\n"
      "relative to the file. `foretoken schema` prints the JSON Schema for editors. Defaults of `null` are "
      "derived;\n"
      "`--print-scenario` shows what a scenario resolves to.\n";
  std::string section;
  for (const ScenarioKey& k : scenario_keys()) {
    if (k.type == "object") continue;
    if (k.section != section) {
      section = k.section;
      s += fmt::format("\n## {}\n\n| key | type | default | meaning | flag |\n|---|---|---|---|---|\n",
                       section);
    }
    std::string meaning = k.help;
    if (!k.limits.empty()) meaning += " (" + k.limits + ")";
    if (!k.choices.empty()) meaning += ": " + join(k.choices, ", ");
    std::string type = k.type == "length" ? "number or object" : k.type;
    if (k.list) type = k.type == "json" ? "list of objects" : "list of " + k.type + "s";
    s += fmt::format("| `{}` | {} | {} | {} | `--{}` |\n", k.pointer.substr(1), type,
                     k.preset.empty() ? "" : "`" + k.preset + "`", meaning, k.flag);
  }
  s += "\nLengths are `fixed{value}`, `uniform{min,max}`, `lognormal{mean,p99}` or `empirical{file}`. "
       "`plan.search` lists "
       "values of\n`hardware`, `engine` and `cluster` keys by their last name.\n";
  return s;
}

}  // namespace foretoken
