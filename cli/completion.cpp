// Completion scripts for bash, zsh and fish.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "cli/help.h"

namespace foretoken {
namespace {

std::string flags_of(const VerbSpec& v) {
  std::string s;
  for (const OptionSpec& o : v.options) {
    s += " --" + o.name;
    if (o.negatable) s += " --no-" + o.name;
  }
  return s + " --help";
}

std::vector<VerbSpec> visible(const std::vector<VerbSpec>& verbs) {
  std::vector<VerbSpec> v;
  for (const VerbSpec& s : verbs)
    if (!s.hidden) v.push_back(s);
  return v;
}

std::vector<std::string> first_words(const std::vector<VerbSpec>& verbs) {
  std::vector<std::string> words;
  for (const VerbSpec& v : verbs) {
    const std::string word = split(v.name, ' ')[0];
    if (std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
  }
  return words;
}

std::string second_words(const std::vector<VerbSpec>& verbs, const std::string& first) {
  std::string words;
  for (const VerbSpec& v : verbs)
    if (v.name.rfind(first + " ", 0) == 0)
      words += (words.empty() ? "" : " ") + v.name.substr(first.size() + 1);
  return words;
}

// Values of options that have a fixed set, once each; the same name means the same set in every verb.
std::vector<OptionSpec> options_with_choices(const std::vector<VerbSpec>& verbs) {
  std::vector<OptionSpec> found;
  for (const VerbSpec& v : verbs)
    for (const OptionSpec& o : v.options)
      if (!o.choices.empty() &&
          std::none_of(found.begin(), found.end(), [&](const OptionSpec& f) { return f.name == o.name; }))
        found.push_back(o);
  return found;
}

std::string bash_script(const std::vector<VerbSpec>& verbs) {
  std::string s =
      "# bash completion of foretoken\n_foretoken() {\n"
      "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags=\n"
      "  COMPREPLY=()\n  case $prev in\n";
  for (const OptionSpec& o : options_with_choices(verbs))
    s += fmt::format("    {}--{}) COMPREPLY=($(compgen -W \"{}\" -- \"$cur\")); return ;;\n",
                     o.letter != 0 ? fmt::format("-{}|", o.letter) : "", o.name, join(o.choices, " "));
  s += "  esac\n  if [[ $COMP_CWORD == 1 ]]; then\n    COMPREPLY=($(compgen -W \"" +
       join(first_words(verbs), " ") + " --help --version\" -- \"$cur\")); return\n  fi\n";
  s += "  case \"${COMP_WORDS[1]} ${COMP_WORDS[2]}\" in\n";
  for (const std::string& first : first_words(verbs))
    if (const std::string second = second_words(verbs, first); !second.empty())
      s += fmt::format(
          "    \"{} \"*) if [[ $COMP_CWORD == 2 ]]; then COMPREPLY=($(compgen -W \"{}\" -- \"$cur\")); "
          "return; fi ;;&\n",
          first, second);
  for (const VerbSpec& v : verbs) {
    const bool two = v.name.find(' ') != std::string::npos;
    s += two ? fmt::format("    \"{}\"*)", v.name) : fmt::format("    \"{} \"*)", v.name);
    s += " flags=\"" + flags_of(v).substr(1) + "\" ;;\n";
  }
  s += "  esac\n  if [[ $cur == -* ]]; then\n    COMPREPLY=($(compgen -W \"$flags\" -- \"$cur\"))\n"
       "  elif [[ ${COMP_WORDS[1]} == completion ]]; then\n    COMPREPLY=($(compgen -W \"bash zsh fish\" -- "
       "\"$cur\"))\n"
       "  else\n    COMPREPLY=($(compgen -f -- \"$cur\"))\n  fi\n}\ncomplete -o filenames -F _foretoken "
       "foretoken\n";
  return s;
}

std::string zsh_quote(const std::string& text) {
  std::string s;
  for (const char c : text) {
    if (c == '\'')
      s += "'\\''";
    else if (c == '[' || c == ']' || c == ':')
      s += std::string("\\") + c;
    else
      s += c;
  }
  return s;
}

std::string zsh_script(const std::vector<VerbSpec>& verbs) {
  std::string s =
      "#compdef foretoken\n# zsh completion of foretoken\n_foretoken() {\n  local -a verbs flags\n  "
      "verbs=(\n";
  for (const std::string& first : first_words(verbs)) {
    std::string help = "several verbs";
    for (const VerbSpec& v : verbs)
      if (v.name == first) help = v.help;
    s += fmt::format("    '{}:{}'\n", first, zsh_quote(help));
  }
  s += "  )\n  if (( CURRENT == 2 )); then _describe verb verbs; return; fi\n  local verb=$words[2]\n";
  for (const std::string& first : first_words(verbs))
    if (const std::string second = second_words(verbs, first); !second.empty())
      s += fmt::format(
          "  if [[ $verb == {} ]]; then\n    if (( CURRENT == 3 )); then compadd {}; return; fi\n"
          "    verb=\"$words[2] $words[3]\"\n  fi\n",
          first, second);
  s += "  case $verb in\n";
  for (const VerbSpec& v : verbs) {
    s += fmt::format("    '{}')\n      flags=(\n", v.name);
    for (const OptionSpec& o : v.options) {
      std::string action;
      if (!o.value.empty()) {
        action = ":" + lower(o.value) + ":";
        if (!o.choices.empty()) action += "(" + join(o.choices, " ") + ")";
        if (o.completes_files) action += "_files";
      }
      s += fmt::format("        '--{}[{}]{}'\n", o.name, zsh_quote(o.help), action);
    }
    s += "      ) ;;\n";
  }
  s +=
      "  esac\n  shift words; (( CURRENT-- ))\n  _arguments $flags '*:file:_files'\n}\n"
      "if [[ $funcstack[1] == _foretoken ]]; then _foretoken \"$@\"; else compdef _foretoken foretoken; fi\n";
  return s;
}

std::string fish_quote(const std::string& text) {
  std::string s = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') s += '\\';
    s += c;
  }
  return s + "'";
}

std::string fish_script(const std::vector<VerbSpec>& verbs) {
  std::string s = "# fish completion of foretoken\n";
  for (const std::string& first : first_words(verbs)) {
    std::string help;
    for (const VerbSpec& v : verbs)
      if (v.name == first) help = v.help;
    s += fmt::format("complete -c foretoken -n __fish_use_subcommand -f -a {} -d {}\n", first,
                     fish_quote(help));
    if (const std::string second = second_words(verbs, first); !second.empty())
      s += fmt::format("complete -c foretoken -n '__fish_seen_subcommand_from {}' -f -a '{}'\n", first,
                       second);
  }
  for (const VerbSpec& v : verbs) {
    std::string condition;
    for (const std::string& word : split(v.name, ' '))
      condition += (condition.empty() ? "" : "; and ") + ("__fish_seen_subcommand_from " + word);
    for (const OptionSpec& o : v.options) {
      s += fmt::format("complete -c foretoken -n '{}' -l {}", condition, o.name);
      if (o.letter != 0) s += fmt::format(" -s {}", o.letter);
      if (!o.value.empty()) s += o.completes_files ? " -r -F" : " -x";
      if (!o.choices.empty()) s += " -a " + fish_quote(join(o.choices, " "));
      s += " -d " + fish_quote(o.help) + "\n";
    }
  }
  return s;
}

}  // namespace

std::string completion_script(const std::vector<VerbSpec>& verbs, const std::string& shell) {
  if (shell == "bash") return bash_script(visible(verbs));
  if (shell == "zsh") return zsh_script(visible(verbs));
  if (shell == "fish") return fish_script(visible(verbs));
  throw Error("completion", "\"" + shell + "\" is not one of bash, zsh, fish");
}

}  // namespace foretoken
