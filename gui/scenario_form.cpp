#include "gui/scenario_form.h"

#include <QApplication>
#include <QCheckBox>
#include <QComboBox>
#include <QCompleter>
#include <QHBoxLayout>
#include <QHeaderView>
#include <QLabel>
#include <QLineEdit>
#include <QSlider>
#include <QVBoxLayout>
#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "deployment/behavior.h"
#include "gui/chart.h"
#include "model/hf_config.h"

namespace foretoken::gui {
namespace {

constexpr int kSteps = 1000;                                                            // of a slider
constexpr int kLeastEditor = 66, kLeastSlider = 56, kKeyMargin = 8, kValueMargin = 24;  // pixels
constexpr int kLongText = 10;  // characters that may not find room in an editor
const QString kDot = QStringLiteral("\u25cf ");

QString name_of_key(const std::string& pointer) {
  return QString::fromStdString(pointer.substr(pointer.rfind('/') + 1));
}

// Keys that are turned first, and the ranges in which they are interesting. Whole numbers of devices go
// through powers of two.
struct Common {
  const char* pointer;
  double low = 0, high = 0;  // 0, 0: no slider
  bool logarithmic = true;
};
constexpr Common kCommon[] = {
    {"/model"},
    {"/hardware/device"},
    {"/engine/behavior"},
    {"/engine/tensor_parallel_size", 1, 16},
    {"/engine/pipeline_parallel_size", 1, 8},
    {"/engine/data_parallel_size", 1, 16},
    {"/engine/enable_expert_parallel"},
    {"/engine/quantization"},
    {"/engine/kv_cache_dtype"},
    {"/engine/max_model_len", 1024, 262144},
    {"/engine/max_num_seqs", 1, 1024},
    {"/engine/max_num_batched_tokens", 256, 65536},
    {"/engine/gpu_memory_utilization", 0.5, 0.98, false},
    {"/engine/enable_prefix_caching"},
    {"/engine/enable_chunked_prefill"},
    {"/engine/async_scheduling"},
    {"/cluster/replicas", 1, 64},
    {"/cluster/router"},
    {"/workload/request_rate", 0.1, 200},
    {"/workload/max_concurrency", 1, 2048},
    {"/workload/num_prompts", 100, 20000},
    {"/workload/trace"},
    {"/workload/rate_scale", 0.1, 100},
    {"/workload/input_len", 16, 65536},
    {"/workload/output_len", 1, 8192},
    {"/workload/seed"},
    {"/slo/ttft_ms", 50, 10000},
    {"/slo/tpot_ms", 5, 500},
    {"/slo/e2el_ms"},
};

bool is_power_key(const std::string& pointer) {
  return pointer.ends_with("_parallel_size") || pointer == "/cluster/replicas";
}

}  // namespace

ScenarioForm::ScenarioForm(Session& session, QWidget* parent)
    : QWidget(parent),
      session_(session),
      search_(new QLineEdit(this)),
      all_(new QCheckBox(tr("All keys"), this)),
      tree_(new QTreeWidget(this)),
      message_(new QLabel(this)) {
  search_->setPlaceholderText(tr("Search keys"));
  search_->setClearButtonEnabled(true);
  all_->setToolTip(tr("Also those that few scenarios have"));
  tree_->setColumnCount(2);
  tree_->setHeaderLabels({tr("Key"), tr("Value")});
  tree_->setIndentation(10);
  tree_->setSelectionMode(QAbstractItemView::NoSelection);
  tree_->setFocusPolicy(Qt::NoFocus);
  tree_->header()->setSectionResizeMode(0, QHeaderView::Interactive);
  tree_->header()->setStretchLastSection(true);
  message_->setWordWrap(true);
  message_->setTextInteractionFlags(Qt::TextSelectableByMouse);
  message_->hide();
  auto* const top = new QHBoxLayout;
  top->addWidget(search_);
  top->addWidget(all_);
  auto* const box = new QVBoxLayout(this);
  box->setContentsMargins(4, 4, 4, 4);
  box->addLayout(top);
  box->addWidget(tree_);
  box->addWidget(message_);

  // Common keys first in each group, then the others in the order of the file's description; a group's rows
  // one after the other, as the Tab key goes through them in the order in which they are made.
  const auto keys = scenario_keys();
  std::vector<const ScenarioKey*> order;
  for (const Common& c : kCommon)
    for (const ScenarioKey& key : keys)
      if (key.pointer == c.pointer) order.push_back(&key);
  const std::vector<const ScenarioKey*> common = order;
  for (const ScenarioKey& key : keys)
    if (key.type != "object" && std::find(common.begin(), common.end(), &key) == common.end())
      order.push_back(&key);
  std::map<std::string, std::size_t> groups;
  const auto group = [&](const ScenarioKey* key) {
    return groups.try_emplace(key->pointer.substr(0, key->pointer.rfind('/')), groups.size()).first->second;
  };
  for (const ScenarioKey* key : order) group(key);
  std::stable_sort(order.begin(), order.end(),
                   [&](const ScenarioKey* a, const ScenarioKey* b) { return group(a) < group(b); });
  for (const ScenarioKey* key : order) add_row(*key);
  // Common keys on one line; longer ones are folded.
  int widest = 0;
  for (const Common& c : kCommon) widest = std::max(widest, name_width(name_of_key(c.pointer)));
  tree_->header()->setMinimumSectionSize(40);
  tree_->setColumnWidth(0, 2 * tree_->indentation() + widest + kKeyMargin);
  setMinimumWidth(tree_->columnWidth(0) + kLeastEditor + kLeastSlider + kValueMargin +
                  style()->pixelMetric(QStyle::PM_ScrollBarExtent));

  connect(search_, &QLineEdit::textChanged, this, &ScenarioForm::filter);
  connect(all_, &QCheckBox::toggled, this, &ScenarioForm::filter);
  connect(&session_, &Session::edited, this, qOverload<>(&ScenarioForm::fill));
  connect(&session_, &Session::pinned_anew, this, &ScenarioForm::mark);
  connect(&session_, &Session::failed, this, &ScenarioForm::show_error);
  connect(&session_, &Session::worked, this, &ScenarioForm::clear_error);
  connect(qApp, &QApplication::focusChanged, this, [this](QWidget*, QWidget* now) { bring_to_sight(now); });
  fill();
  filter();
}

// Focus moves while the rows are taken down.
ScenarioForm::~ScenarioForm() { disconnect(qApp, nullptr, this, nullptr); }

QStringList ScenarioForm::choices_of(const ScenarioKey& key) const {
  QStringList out;
  if (key.pointer == "/model") {
    for (const Preset& p : list_presets(session_.world()->resources.preset_folder))
      out << QString::fromStdString(p.name);
  } else if (key.pointer.ends_with("/device")) {
    for (const Device& d : session_.world()->database.devices()) out << QString::fromStdString(d.name);
  } else if (key.pointer.ends_with("/behavior")) {
    for (const std::string& b : modelled_behaviors()) out << QString::fromStdString(b);
  } else if (key.type == "boolean") {
    out << QStringLiteral("true") << QStringLiteral("false");
  } else {
    for (const std::string& c : key.choices) out << QString::fromStdString(c);
  }
  return out;
}

QTreeWidgetItem* ScenarioForm::group_of(const std::string& pointer) {
  const auto slash = pointer.rfind('/');
  const std::string parent = pointer.substr(0, slash);
  const std::string name = parent.empty() ? "scenario" : parent;
  if (const auto found = groups_.find(name); found != groups_.end()) return found->second;
  auto* const group = new QTreeWidgetItem(tree_);
  group->setText(0, QString::fromStdString(parent.empty() ? "scenario" : parent.substr(1)));
  group->setFirstColumnSpanned(true);
  group->setFlags(Qt::ItemIsEnabled);
  QFont bold = tree_->font();
  bold.setBold(true);
  group->setFont(0, bold);
  group->setExpanded(true);
  groups_[name] = group;
  return group;
}

void ScenarioForm::add_row(const ScenarioKey& key) {
  Row row;
  row.key = key;
  for (const Common& c : kCommon)
    if (key.pointer == c.pointer) {
      row.common = true;
      row.low = c.low, row.high = c.high, row.logarithmic = c.logarithmic;
    }
  row.item = new QTreeWidgetItem(group_of(key.pointer));
  row.item->setText(0, name_of_key(key.pointer));
  QString help = QString::fromStdString(key.help);
  if (!key.limits.empty()) help += QStringLiteral(" (%1)").arg(QString::fromStdString(key.limits));
  row.item->setToolTip(0, help);
  const QString preset = key.preset == "null" || key.preset.empty()
                             ? tr("auto")
                             : QString::fromStdString(key.preset).remove(u'"');
  const std::string pointer = key.pointer;
  const QStringList choices = choices_of(key);
  auto* const cell = new QWidget(tree_);
  auto* const line = new QHBoxLayout(cell);
  line->setContentsMargins(0, 0, 2, 0);
  line->setSpacing(4);
  if (!choices.isEmpty()) {
    auto* const box = new QComboBox(cell);
    box->setEditable(key.type != "boolean" && key.choices.empty());
    box->addItem(preset, QString());
    for (const QString& c : choices) box->addItem(c, c);
    box->setSizeAdjustPolicy(QComboBox::AdjustToMinimumContentsLengthWithIcon);
    box->setMinimumContentsLength(8);
    if (box->isEditable()) {
      box->setInsertPolicy(QComboBox::NoInsert);
      box->completer()->setFilterMode(Qt::MatchContains);
      box->completer()->setCompletionMode(QCompleter::PopupCompletion);
      box->lineEdit()->setPlaceholderText(preset);
      connect(box->lineEdit(), &QLineEdit::editingFinished, this, [this, pointer, box] {
        if (!filling_)
          enter(pointer, box->currentIndex() == 0 && box->currentText() == box->itemText(0)
                             ? QString()
                             : box->currentText());
      });
    }
    connect(box, &QComboBox::activated, this,
            [this, pointer, box](int i) { enter(pointer, box->itemData(i).toString()); });
    row.editor = box;
  } else {
    auto* const edit = new QLineEdit(cell);
    edit->setPlaceholderText(preset);
    edit->setMinimumWidth(kLeastEditor);
    connect(edit, &QLineEdit::editingFinished, this, [this, pointer, edit] {
      if (!filling_ && edit->isModified()) enter(pointer, edit->text());
      edit->setModified(false);
    });
    row.editor = edit;
  }
  row.editor->setToolTip(help);
  row.editor->setAccessibleName(QString::fromStdString(key.pointer));
  line->addWidget(row.editor, 2);
  if (row.high > 0) {
    row.slider = new QSlider(Qt::Horizontal, cell);
    row.slider->setRange(0, kSteps);
    row.slider->setMinimumWidth(kLeastSlider);
    row.slider->setAccessibleName(QString::fromStdString(key.pointer));
    row.slider->setToolTip(help);
    line->addWidget(row.slider, 3);
    connect(row.slider, &QSlider::valueChanged, this, [this, pointer](int at) {
      if (filling_) return;
      const Row& r = rows_.at(pointer);
      const double share = static_cast<double>(at) / kSteps;
      double value =
          r.logarithmic ? r.low * std::pow(r.high / r.low, share) : r.low + (r.high - r.low) * share;
      if (is_power_key(pointer) && pointer != "/cluster/replicas")
        value = std::exp2(std::round(std::log2(value)));
      const bool whole = r.key.type == "integer" || r.key.type == "length";
      const double unit = whole ? 1 : std::pow(10, std::floor(std::log10(value)) - 2);
      value = std::max(r.low, std::round(value / unit) * unit);
      enter(pointer, QString::number(value, 'g', 10), true);
    });
  }
  rows_.emplace(pointer, row);
  order_.push_back(pointer);
  tree_->setItemWidget(row.item, 1, cell);
}

int ScenarioForm::name_width(const QString& name) const {
  QFont italic = tree_->font();  // as a key that differs is written, with its dot
  italic.setItalic(true);
  return QFontMetrics(italic).horizontalAdvance(kDot + name);
}

// Two lines where one is too short: "long_prefill_" and "token_threshold".
QString ScenarioForm::folded(const QString& name) const {
  const int room = tree_->columnWidth(0) - 2 * tree_->indentation() - kKeyMargin;
  if (name_width(name) <= room) return name;
  qsizetype best = -1;
  for (qsizetype at = name.indexOf(u'_'); at >= 0; at = name.indexOf(u'_', at + 1))
    if (best < 0 || std::abs(2 * at - name.size()) < std::abs(2 * best - name.size())) best = at;
  return best < 0 ? name : name.left(best + 1) + u'\n' + name.mid(best + 1);
}

std::vector<std::string> ScenarioForm::pointers() const { return order_; }
QWidget* ScenarioForm::editor(const std::string& pointer) const { return rows_.at(pointer).editor; }
bool ScenarioForm::is_marked_wrong(const std::string& pointer) const { return rows_.at(pointer).wrong; }
QString ScenarioForm::message() const { return message_->isHidden() ? QString() : message_->text(); }

void ScenarioForm::enter(const std::string& pointer, const QString& text, bool dragging) {
  Row& row = rows_.at(pointer);
  const std::string typed(trim(text.toStdString()));
  try {
    Json value;
    if (!typed.empty()) {
      // As a flag's value; a list stays one.
      const bool json = typed[0] == '{' || typed[0] == '[';
      const std::vector<Json> values =
          json ? std::vector<Json>{parse_json(typed, "scenario:" + pointer)} : flag_values(row.key, typed);
      if (values.size() > 1 && !row.key.list) throw Error("scenario:" + pointer, "takes one value");
      value = row.key.list && row.key.type != "json" && !json ? Json(values) : values.front();
    }
    session_.edit(pointer, value, dragging);
  } catch (const Error& e) {
    show_error(QString::fromStdString(pointer), QString::fromStdString(e.message()));
  }
}

void ScenarioForm::fill() {
  filling_ = true;
  bool other_keys = false;
  for (auto& [pointer, row] : rows_) {
    fill(row);
    const bool set = session_.scenario().contains(Json::json_pointer(pointer));
    other_keys |= set != row.set;
    row.set = set;
  }
  filling_ = false;
  mark();
  if (other_keys) filter();
}

// Of what the keyboard has come to.
void ScenarioForm::bring_to_sight(const QWidget* focused) {
  if (focused == nullptr || !tree_->isAncestorOf(focused)) return;
  for (auto& [pointer, row] : rows_)
    if (focused == row.slider || focused == row.editor || row.editor->isAncestorOf(focused))
      return tree_->scrollToItem(row.item);
}

void ScenarioForm::fill(Row& row) {
  const Json& scenario = session_.scenario();
  const Json::json_pointer at(row.key.pointer);
  const Json value = scenario.contains(at) ? scenario.at(at) : Json();
  const QString text = QString::fromStdString(text_of(value));
  if (auto* const box = qobject_cast<QComboBox*>(row.editor)) {
    const int i = text.isEmpty() ? 0 : box->findData(text);
    if (i >= 0)
      box->setCurrentIndex(i);
    else if (box->isEditable())
      box->setEditText(text);
    else
      box->setCurrentIndex(-1);
    if (box->isEditable()) box->lineEdit()->setCursorPosition(0);  // a long name from its beginning
  } else if (auto* const edit = qobject_cast<QLineEdit*>(row.editor); edit->text() != text) {
    edit->setText(text);
    edit->setCursorPosition(0);
    edit->setModified(false);
    edit->setToolTip(text.size() > kLongText ? text + QStringLiteral("\n\n") + row.item->toolTip(0)
                                             : row.item->toolTip(0));
  }
  if (row.slider == nullptr || row.slider->isSliderDown()) return;
  const auto shown = parse_double(text.isEmpty() ? row.key.preset : text.toStdString());
  // What is no number, such as a distribution, has the room to itself.
  row.slider->setVisible(text.isEmpty() || shown.has_value());
  const double v = std::clamp(shown.value_or(row.low), row.low, row.high);
  const double share = row.logarithmic ? std::log(v / row.low) / std::log(row.high / row.low)
                                       : (v - row.low) / (row.high - row.low);
  row.slider->setValue(static_cast<int>(std::lround(share * kSteps)));
}

void ScenarioForm::mark() {
  for (auto& [pointer, row] : rows_) {
    const Json::json_pointer at(pointer);
    const auto value = [&](const Json& s) { return s.is_object() && s.contains(at) ? s.at(at) : Json(); };
    const bool differs =
        session_.has_pin() && value(session_.pinned_scenario()) != value(session_.scenario());
    const QString name = folded(name_of_key(pointer));
    row.item->setText(0, differs ? kDot + name : name);
    QFont font = tree_->font();
    font.setItalic(differs);
    row.item->setFont(0, font);
  }
}

void ScenarioForm::filter() {
  const QString wanted = search_->text().trimmed();
  const auto matches = [&](const std::string& text) {
    return QString::fromStdString(text).contains(wanted, Qt::CaseInsensitive);
  };
  std::set<QTreeWidgetItem*> shown_groups;
  for (auto& [pointer, row] : rows_) {
    // What has just been emptied stays under the cursor, and what is wrong in sight.
    const bool shown = wanted.isEmpty()
                           ? row.common || row.set || row.wrong || all_->isChecked() || row.editor->hasFocus()
                           : matches(pointer) || matches(row.key.help);
    row.item->setHidden(!shown);
    if (shown) shown_groups.insert(row.item->parent());
  }
  for (auto& [name, group] : groups_) group->setHidden(!shown_groups.contains(group));
}

void ScenarioForm::show_error(const QString& where, const QString& message) {
  clear_error();
  // The key that is named, or the one that the place is inside of.
  std::string pointer = where.toStdString();
  while (!pointer.empty() && !rows_.contains(pointer)) pointer.resize(pointer.rfind('/'));
  const QString key = where.isEmpty() ? QString() : where + QStringLiteral(": ");
  message_->setText(key + message);
  QPalette wrong = palette();
  wrong.setColor(QPalette::WindowText, Chart::wrong_colour(palette()));
  message_->setPalette(wrong);
  message_->show();
  if (pointer.empty()) return;
  Row& row = rows_.at(pointer);
  row.wrong = true;
  row.item->setHidden(false);
  row.item->parent()->setHidden(false);
  row.item->setForeground(0, Chart::wrong_colour(palette()));
  row.item->setToolTip(1, message);
  QPalette p = row.editor->palette();
  p.setColor(QPalette::Text, Chart::wrong_colour(palette()));
  row.editor->setPalette(p);
  tree_->scrollToItem(row.item);
}

void ScenarioForm::clear_error() {
  message_->hide();
  for (auto& [pointer, row] : rows_) {
    if (!row.wrong) continue;
    row.wrong = false;
    row.item->setForeground(0, QBrush());
    row.editor->setPalette(QPalette());
  }
}

}  // namespace foretoken::gui
