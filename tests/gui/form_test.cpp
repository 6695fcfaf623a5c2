// Every key of the scenario through its editor: what is typed is what the file gets, errors stand at their
// key, and everything can be taken back.
#include <gmock/gmock.h>

#include <QApplication>
#include <QComboBox>
#include <QLineEdit>
#include <QTreeWidget>
#include <random>

#include "base/json_full.h"
#include "gui/window.h"

namespace foretoken::gui {
namespace {

using testing::HasSubstr;

// A value that the key takes, as typed.
QString typed(const ScenarioKey& key) {
  if (key.type == "boolean") return QStringLiteral("true");
  if (!key.choices.empty()) return QString::fromStdString(key.choices.back());
  if (key.pointer == "/model") return QStringLiteral("qwen3-8b");
  if (key.pointer.ends_with("/device")) return QStringLiteral("h200");
  if (key.pointer.ends_with("/behavior")) return QStringLiteral("vllm-0.10");
  if (key.type == "integer" || key.type == "number") return QStringLiteral("2");
  if (key.type == "length") return QStringLiteral("lognormal:mean=1200,p99=8000");
  if (key.type == "json") return QStringLiteral("{\"a\": [1, 2]}");
  return QStringLiteral("text");
}

TEST(Form, EveryFieldWritesItsKeyAndIsTakenBack) {
  Session session;
  ScenarioForm form(session);
  const Json before = session.scenario();
  std::map<std::string, ScenarioKey> keys;
  for (const ScenarioKey& key : scenario_keys()) keys[key.pointer] = key;
  ASSERT_GT(form.pointers().size(), 150u);
  for (const std::string& pointer : form.pointers()) {
    SCOPED_TRACE(pointer);
    ASSERT_NE(form.editor(pointer), nullptr);
    EXPECT_FALSE(form.editor(pointer)->toolTip().isEmpty());
    const QString text = typed(keys.at(pointer));
    form.enter(pointer, text);
    const Json::json_pointer at(pointer);
    ASSERT_TRUE(session.scenario().contains(at)) << form.message().toStdString();
    const Json value = session.scenario().at(at);
    if (keys.at(pointer).type == "integer") {
      EXPECT_EQ(value, keys.at(pointer).list ? Json::array({2}) : Json(2));
    }
    if (keys.at(pointer).type == "boolean") {
      EXPECT_EQ(value, Json(true));
    }
    while (session.history().canUndo()) session.history().undo();
    EXPECT_EQ(session.scenario(), before);
  }
}

TEST(Form, ShowsWhatTheScenarioSays) {
  Session session;
  ScenarioForm form(session);
  session.set_scenario(Json::parse(R"({"model": "mixtral-8x7b", "hardware": {"device": "h200"},
      "engine": {"max_num_seqs": 77, "enable_prefix_caching": false},
      "workload": {"request_rate": 2.5, "input_len": {"distribution": "fixed", "value": 300}, "output_len": 20}})"),
                       QStringLiteral("test"));
  const auto text = [&](const std::string& pointer) {
    if (auto* const box = qobject_cast<QComboBox*>(form.editor(pointer)))
      return box->currentText().toStdString();
    return qobject_cast<QLineEdit*>(form.editor(pointer))->text().toStdString();
  };
  EXPECT_EQ(text("/model"), "mixtral-8x7b");
  EXPECT_EQ(text("/hardware/device"), "h200");
  EXPECT_EQ(text("/engine/max_num_seqs"), "77");
  EXPECT_EQ(text("/engine/enable_prefix_caching"), "false");
  EXPECT_EQ(text("/workload/request_rate"), "2.5");
  EXPECT_EQ(text("/workload/input_len"), "300");
  EXPECT_EQ(text("/engine/max_model_len"), "");
}

// Keys that few scenarios have are shown where the scenario has them.
TEST(Form, WhatIsSetIsShown) {
  Session session;
  ScenarioForm form(session);
  const auto shown = [&](const char* pointer) {
    return form.editor(pointer)->parentWidget()->isVisibleTo(&form);
  };
  form.resize(400, 900);
  form.show();
  EXPECT_FALSE(shown("/engine/block_size"));
  session.edit("/engine/block_size", Json(32));
  QApplication::processEvents();
  EXPECT_TRUE(shown("/engine/block_size"));
  session.history().undo();
  QApplication::processEvents();
  EXPECT_FALSE(shown("/engine/block_size"));
}

TEST(Form, ErrorsStandAtTheirKey) {
  Session session;
  ScenarioForm form(session);
  form.enter("/engine/max_num_seqs", QStringLiteral("-3"));
  EXPECT_TRUE(form.is_marked_wrong("/engine/max_num_seqs"));
  EXPECT_THAT(form.message().toStdString(), HasSubstr("at least 1"));
  EXPECT_EQ(session.estimated(), nullptr);
  form.enter("/engine/max_num_seqs", QStringLiteral("8"));
  EXPECT_FALSE(form.is_marked_wrong("/engine/max_num_seqs"));
  EXPECT_EQ(form.message(), QString());
  ASSERT_NE(session.estimated(), nullptr);
  // What is no number at all never gets into the scenario.
  form.enter("/engine/max_num_seqs", QStringLiteral("many"));
  EXPECT_THAT(form.message().toStdString(), HasSubstr("not a number"));
  EXPECT_EQ(session.scenario()["engine"]["max_num_seqs"], 8);
  form.enter("/hardware/device", QStringLiteral("h900"));
  EXPECT_TRUE(form.is_marked_wrong("/hardware/device"));
}

TEST(Form, EmptyMeansTheDefaultAndLeavesNoSectionBehind) {
  Session session;
  ScenarioForm form(session);
  const Json before = session.scenario();
  form.enter("/slo/ttft_ms", QStringLiteral("500"));
  EXPECT_EQ(session.scenario()["slo"]["ttft_ms"], 500);
  form.enter("/slo/ttft_ms", QString());
  EXPECT_EQ(session.scenario(), before);
}

TEST(Form, DraggingIsOneStepBack) {
  Session session;
  ScenarioForm form(session);
  const Json before = session.scenario();
  for (int rate = 5; rate < 40; ++rate) form.enter("/workload/request_rate", QString::number(rate), true);
  EXPECT_EQ(session.scenario()["workload"]["request_rate"], 39);
  EXPECT_EQ(session.history().count(), 1);
  session.history().undo();
  EXPECT_EQ(session.scenario(), before);
  session.history().redo();
  EXPECT_EQ(session.scenario()["workload"]["request_rate"], 39);
}

// In the narrowest window: names on one line or folded, never cut, and sliders inside the form.
TEST(Form, KeysAndSlidersAreWholeInANarrowWindow) {
  Window window(false);
  window.resize(1000, 700);
  window.show();
  QApplication::processEvents();
  auto* const tree = window.form().findChild<QTreeWidget*>();
  EXPECT_LE(window.form().width(), 380);
  int seen = 0;
  for (int g = 0; g < tree->topLevelItemCount(); ++g)
    for (int i = 0; i < tree->topLevelItem(g)->childCount(); ++i) {
      QTreeWidgetItem* const item = tree->topLevelItem(g)->child(i);
      for (const QString& line : item->text(0).split(u'\n'))
        EXPECT_LE(tree->fontMetrics().horizontalAdvance(line) + 2 * tree->indentation(), tree->columnWidth(0))
            << line.toStdString();
      if (item->isHidden()) continue;
      QWidget* const cell = tree->itemWidget(item, 1);
      for (QWidget* part : cell->findChildren<QWidget*>(QString(), Qt::FindDirectChildrenOnly)) {
        EXPECT_LE(part->mapTo(tree->viewport(), part->rect().topRight()).x(), tree->viewport()->width())
            << item->text(0).toStdString();
        ++seen;
      }
    }
  EXPECT_GT(seen, 30);
}

// Whatever is typed, the session has an answer or an error, and the window lives.
// Each view is painted now and then.
TEST(Form, AThousandRandomEdits) {
  Window window(false);
  window.resize(1280, 800);
  window.show();
  std::mt19937 random(7);
  const std::vector<std::string> pointers = window.form().pointers();
  std::map<std::string, ScenarioKey> keys;
  for (const ScenarioKey& key : scenario_keys()) keys[key.pointer] = key;
  const QString wild[] = {
      QStringLiteral("0"),   QStringLiteral("-1"), QStringLiteral("1e18"),  QStringLiteral("3.7"),
      QStringLiteral("nan"), QStringLiteral("{"),  QStringLiteral("[1,2]"), QString()};
  int answered = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::string& pointer = pointers[random() % pointers.size()];
    // A few requests, so that simulations that start are short.
    if (pointer == "/workload/num_prompts" || pointer == "/workload/trace") continue;
    window.form().enter(pointer,
                        random() % 2 == 0 ? typed(keys.at(pointer)) : wild[random() % std::size(wild)],
                        random() % 3 == 0);
    if (i % 50 == 0) {
      const auto& views = window.views();
      window.show_view(views[static_cast<std::size_t>(i / 50) % views.size()]->title());
      QApplication::processEvents();
    }
    if (i % 97 == 0) i % 2 == 0 ? window.session().pin() : window.session().unpin();
    if (window.session().estimated()) ++answered;
    while (!window.session().estimated() && window.session().history().canUndo())
      window.session().history().undo();
  }
  EXPECT_GT(answered, 200);
  window.form().enter("/workload/num_prompts", QStringLiteral("20"));
}

}  // namespace
}  // namespace foretoken::gui
