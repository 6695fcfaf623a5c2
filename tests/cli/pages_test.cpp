// Pages made from the command tables: they name everything, and the committed ones are the program's own.
#include <gtest/gtest.h>

#include "base/file.h"
#include "cli/help.h"

namespace foretoken {
namespace {

std::string page(const std::string& name) {
  return read_file(std::string(FORETOKEN_SOURCE_DIR) + "/docs/" + name);
}

TEST(Pages, CommandLineReferenceIsCurrent) {
  EXPECT_EQ(page("cli.md"), cli_reference(verb_specs())) << "run: foretoken reference cli --save docs/cli.md";
}

TEST(Pages, ScenarioReferenceIsCurrent) {
  EXPECT_EQ(page("scenario.md"), scenario_reference())
      << "run: foretoken reference scenario --save docs/scenario.md";
}

TEST(Pages, EveryVerbHasHelpAnExampleAndAManualEntry) {
  const auto verbs = verb_specs();
  const std::string manual = manual_page(verbs, "1.2.3");
  for (const VerbSpec& v : verbs) {
    ASSERT_FALSE(v.examples.empty()) << v.name;
    EXPECT_NE(verb_help(verbs, v.name).find(v.examples[0]), std::string::npos) << v.name;
    if (!v.hidden) {
      EXPECT_NE(overview(verbs).find("  " + v.name), std::string::npos) << v.name;
      EXPECT_NE(manual.find("foretoken " + v.name.substr(0, v.name.find(' '))), std::string::npos) << v.name;
    }
  }
}

TEST(Pages, CompletionsKnowVerbsFlagsAndChoices) {
  const auto verbs = verb_specs();
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = completion_script(verbs, shell);
    for (const char* word : {"simulate", "tensor-parallel-size", "fp8_e4m3", "xport"})
      EXPECT_NE(script.find(word), std::string::npos) << shell << " " << word;
    EXPECT_EQ(script.find("reference"), std::string::npos) << "hidden verbs stay hidden";
  }
}

}  // namespace
}  // namespace foretoken
