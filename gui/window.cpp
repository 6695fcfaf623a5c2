#include "gui/window.h"

#include <fmt/format.h>

#include <QApplication>
#include <QClipboard>
#include <QCloseEvent>
#include <QDateTime>
#include <QDir>
#include <QDockWidget>
#include <QFileDialog>
#include <QFileInfo>
#include <QInputDialog>
#include <QLabel>
#include <QMenuBar>
#include <QMessageBox>
#include <QPainter>
#include <QProxyStyle>
#include <QSettings>
#include <QStandardPaths>
#include <QStatusBar>
#include <QStyleFactory>
#include <QTabBar>
#include <QToolBar>
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/text.h"
#include "cli/version.h"
#include "gui/headline.h"
#include "simulator/report.h"

namespace foretoken::gui {
namespace {

using Make = View* (*)(Session&);
constexpr Make kViews[] = {make_memory_view, make_step_view,     make_roofline_view, make_load_view,
                           make_pareto_view, make_timeline_view, make_compare_view,  make_validation_view,
                           make_plan_view,   make_model_view,    make_calibrate_view};

// What is remembered.
const QString kFile = QStringLiteral("file"), kUnsaved = QStringLiteral("unsaved"),
              kPinned = QStringLiteral("pinned"), kPinnedFile = QStringLiteral("pinned_file"),
              kTheme = QStringLiteral("theme"), kGeometry = QStringLiteral("geometry"),
              kState = QStringLiteral("state"), kLight = QStringLiteral("light"),
              kDark = QStringLiteral("dark");
// Nobody answers where nobody sees a question.
const QString kOffscreen = QStringLiteral("offscreen");

constexpr int kLowWindow = 760, kTabSpace = 12;  // pixels

// Eleven tabs side by side.
class TabStyle : public QProxyStyle {
 public:
  int pixelMetric(PixelMetric metric, const QStyleOption* option, const QWidget* widget) const override {
    return metric == PM_TabBarTabHSpace ? kTabSpace : QProxyStyle::pixelMetric(metric, option, widget);
  }
};

// Frames of fields and boxes, which Fusion draws darker than the window: in the dark not to be seen.
class DarkStyle : public QProxyStyle {
 public:
  explicit DarkStyle(QStyle* base) : QProxyStyle(base) {}
  void drawPrimitive(PrimitiveElement element, const QStyleOption* option, QPainter* painter,
                     const QWidget* widget) const override {
    QProxyStyle::drawPrimitive(element, option, painter, widget);
    if ((element != PE_FrameLineEdit && element != PE_IndicatorCheckBox) || (option->state & State_HasFocus))
      return;
    painter->setPen(QColor(0x5c, 0x60, 0x66));
    painter->setBrush(Qt::NoBrush);
    painter->drawRect(option->rect.adjusted(0, 0, -1, -1));
  }
};

// Text that is cut with dots where it finds no room, and whole in the tooltip.
class ElidedLabel : public QLabel {
 public:
  using QLabel::QLabel;

 protected:
  void paintEvent(QPaintEvent*) override {
    QPainter painter(this);
    painter.drawText(contentsRect(), static_cast<int>(Qt::AlignLeft | Qt::AlignVCenter),
                     fontMetrics().elidedText(text(), Qt::ElideRight, contentsRect().width()));
  }
};

// Throws where the text is none.
Json object_of(const QString& text) {
  Json json = Json::parse(text.toStdString());
  if (!json.is_object()) throw std::invalid_argument("it is no JSON object");
  return json;
}

}  // namespace

Window::Window(bool remember, QWidget* parent)
    : QMainWindow(parent),
      form_(new ScenarioForm(session_, this)),
      verdict_(new ElidedLabel(this)),
      busy_(new QLabel(this)),
      tab_style_(new TabStyle),
      remember_(remember) {
  tab_style_->setParent(this);
  setDockNestingEnabled(true);
  setTabPosition(Qt::AllDockWidgetAreas, QTabWidget::North);
  auto* const left = new QDockWidget(tr("Scenario"), this);
  left->setObjectName(QStringLiteral("Scenario"));
  left->setWidget(form_);
  addDockWidget(Qt::LeftDockWidgetArea, left);
  docks_.push_back(left);
  for (const Make make : kViews) {
    View* const view = make(session_);
    auto* const dock = new QDockWidget(view->title(), this);
    dock->setObjectName(view->title());
    dock->setWidget(view);
    // Eleven names find room side by side.
    if (const auto space = view->title().indexOf(u' '); space > 0)
      dock->setWindowTitle(view->title().left(space));
    addDockWidget(Qt::RightDockWidgetArea, dock);
    views_.push_back(view);
    docks_.push_back(dock);
  }
  resize(1280, 800);
  splitDockWidget(docks_[1], docks_[2], Qt::Vertical);
  arrange();

  verdict_->setMinimumWidth(60);
  verdict_->setSizePolicy(QSizePolicy::Ignored, QSizePolicy::Preferred);
  statusBar()->addWidget(verdict_, 1);
  statusBar()->addPermanentWidget(busy_);
  make_menus();
  connect(&session_, &Session::estimated_anew, this, &Window::show_state);
  connect(&session_, &Session::simulated_anew, this, &Window::show_state);
  connect(&session_, &Session::intervals_anew, this, &Window::show_state);
  connect(&session_, &Session::edited, this, &Window::show_state);
  connect(&session_.history(), &QUndoStack::cleanChanged, this, &Window::show_state);
  connect(&session_, &Session::failed, this, [this](const QString& where, const QString& message) {
    verdict_->setText(where.isEmpty() ? message : where + QStringLiteral(": ") + message);
  });
  connect(&session_, &Session::busy, this,
          [this](bool is) { busy_->setText(is ? tr("simulating") : tr("done")); });
  if (remember_) {
    const QSettings settings;
    restoreGeometry(settings.value(kGeometry).toByteArray());
    arranged_ = restoreState(settings.value(kState).toByteArray());
    connect(&session_, &Session::simulated_anew, this, &Window::remember_scenario);
    connect(&session_, &Session::pinned_anew, this, &Window::remember_scenario);
  }
  show_state();
}

// Memory above, the others behind one another below it; where that is too low, behind one another with it.
void Window::arrange() {
  const bool low = height() < kLowWindow;
  const std::size_t front = low ? 1 : 2;
  for (std::size_t i = front + 1; i < docks_.size(); ++i) tabifyDockWidget(docks_[front], docks_[i]);
  for (QTabBar* const tabs : findChildren<QTabBar*>(QString(), Qt::FindDirectChildrenOnly)) {
    tabs->setElideMode(Qt::ElideNone);  // whole names, and arrows where they find no room
    tabs->setUsesScrollButtons(true);
    tabs->setStyle(tab_style_);
  }
  docks_[front]->raise();
  resizeDocks({docks_[0], docks_[1]}, {std::min(400, width() / 3), width()}, Qt::Horizontal);
  if (!low) resizeDocks({docks_[1], docks_[2]}, {270, 490}, Qt::Vertical);
}

// The size is known by now.
void Window::showEvent(QShowEvent* event) {
  if (!std::exchange(arranged_, true)) arrange();
  QMainWindow::showEvent(event);
}

// Docks behind another one are not hidden, but nobody sees the focus there.
bool Window::focusNextPrevChild(bool next) {
  const QWidget* const first = focusWidget();
  const auto is_behind = [this](const QWidget* w) {
    return w != nullptr && std::any_of(docks_.begin(), docks_.end(), [w](const QDockWidget* d) {
             return d->isAncestorOf(w) && d->visibleRegion().isEmpty();
           });
  };
  do
    if (!QMainWindow::focusNextPrevChild(next)) return false;
  while (focusWidget() != first && is_behind(focusWidget()));
  return true;
}

View* Window::view(const QString& title) const {
  for (View* v : views_)
    if (v->title().compare(title, Qt::CaseInsensitive) == 0) return v;
  // By the name on its tab.
  for (View* v : views_)
    if (v->parentWidget()->windowTitle().compare(title, Qt::CaseInsensitive) == 0) return v;
  return nullptr;
}

void Window::show_view(const QString& title) {
  const View* const v = view(title);
  for (QDockWidget* d : docks_)
    if (d->widget() == v || d->objectName().compare(title, Qt::CaseInsensitive) == 0) {
      d->show();
      d->raise();
    }
}

void Window::open(const QString& file) {
  try {
    session_.open(file.toStdString());
  } catch (const std::exception& e) {
    show_problem(tr("Can't be opened"), QString::fromUtf8(e.what()));
  }
}

void Window::open_last() {
  const QSettings settings;
  const QString file = settings.value(kFile).toString();
  const QString unsaved = settings.value(kUnsaved).toString();
  if (!file.isEmpty() && QFileInfo::exists(file)) open(file);
  try {
    if (!unsaved.isEmpty()) session_.set_scenario(object_of(unsaved), tr("unsaved changes of the last time"));
  } catch (const std::exception& e) {
    QSettings().remove(kUnsaved);
    show_problem(tr("Unsaved changes of the last time can't be read"), QString::fromUtf8(e.what()));
  }
  restore_pin();
}

void Window::open_given(const QString& file) {
  const QSettings settings;
  const QString last = settings.value(kFile).toString(), unsaved = settings.value(kUnsaved).toString();
  if (unsaved.isEmpty() || (!last.isEmpty() && QFileInfo(last) == QFileInfo(file))) {
    if (unsaved.isEmpty()) {
      open(file);
      restore_pin();
    } else {
      open_last();
    }
    return;
  }
  const QDir folder(QStandardPaths::writableLocation(QStandardPaths::AppDataLocation));
  const QString copy = folder.filePath(
      QStringLiteral("unsaved-%1.json").arg(QDateTime::currentDateTime().toString(u"yyyyMMdd-hhmmss-zzz")));
  try {
    folder.mkpath(QStringLiteral("."));
    OutputFile out(copy.toStdString());
    out.write(unsaved.toStdString() + "\n");
    out.commit();
  } catch (const std::exception& e) {
    open_last();
    return show_problem(tr("Unsaved changes of the last time can't be put aside, so they were opened"),
                        QString::fromUtf8(e.what()));
  }
  open(file);
  restore_pin();
  show_problem(tr("Unsaved changes of the last time"),
               tr("What was not saved of %1 the last time is in %2.")
                   .arg(last.isEmpty() ? tr("a new scenario") : last, QDir::toNativeSeparators(copy)));
}

void Window::restore_pin() {
  const QSettings settings;
  const QString pinned = settings.value(kPinned).toString();
  if (pinned.isEmpty()) return;
  try {
    session_.pin(object_of(pinned), settings.value(kPinnedFile).toString().toStdString());
  } catch (const std::exception&) {  // it is damaged, and can be had again by pinning
    QSettings().remove(kPinned);
  }
}

// After each answer too, so that a crash loses nothing.
void Window::remember_scenario() {
  QSettings settings;
  const auto absolute = [](const std::filesystem::path& file) {
    return file.empty() ? QString() : QFileInfo(QString::fromStdString(file.string())).absoluteFilePath();
  };
  settings.setValue(kFile, absolute(session_.file()));
  if (session_.has_pin()) {
    settings.setValue(kPinned, QString::fromStdString(session_.pinned_scenario().dump()));
    settings.setValue(kPinnedFile, absolute(session_.pinned_file()));
  } else {
    settings.remove(kPinned);
  }
  if (session_.history().isClean())
    settings.remove(kUnsaved);
  else
    settings.setValue(kUnsaved, QString::fromStdString(session_.scenario().dump()));
}

void Window::show_problem(const QString& title, const QString& text) {
  verdict_->setText(text);
  if (QGuiApplication::platformName() != kOffscreen) QMessageBox::warning(this, title, text);
}

void Window::show_state() {
  const QString name = session_.file().empty() ? tr("new scenario")
                                               : QString::fromStdString(session_.file().filename().string());
  setWindowTitle(QStringLiteral("%1[*] - Foretoken").arg(name));
  setWindowModified(!session_.history().isClean());
  const auto e = session_.estimated();
  result_action_->setEnabled(false);
  if (!e) return;
  verdict_->setText(e->verdict.empty() ? QString::fromStdString(e->prepared.workload)
                                       : QString::fromStdString(e->verdict));
  verdict_->setToolTip(verdict_->text() + u'\n' + QString::fromStdString(e->context));
  // Whole, or not at all.
  result_action_->setEnabled(!e->verdict.empty() ||
                             (session_.simulated() && session_.simulated()->has_intervals));
}

bool Window::save(bool ask_where) {
  QString file = QString::fromStdString(session_.file().string());
  if (ask_where || file.isEmpty())
    file = QFileDialog::getSaveFileName(this, tr("Save the scenario"), file, tr("Scenarios (*.json)"));
  if (file.isEmpty()) return false;
  try {
    session_.save(file.toStdString());
    return true;
  } catch (const std::exception& e) {
    show_problem(tr("Can't be saved"), QString::fromUtf8(e.what()));
    return false;
  }
}

void Window::open_model() {
  const QString file =
      QFileDialog::getOpenFileName(this, tr("A model's config.json"), {}, tr("Models (*.json)"));
  if (!file.isEmpty()) session_.edit("/model", Json(file.toStdString()));
}

void Window::paste_command() {
  QInputDialog dialog(this);
  dialog.setWindowTitle(tr("vllm serve ..."));
  dialog.setLabelText(
      tr("A command that starts a server, such as: vllm serve Qwen/Qwen3-8B --tensor-parallel-size 2"));
  dialog.setOption(QInputDialog::UsePlainTextEditForTextInput);
  dialog.setTextValue(QApplication::clipboard()->text());
  dialog.resize(640, 240);
  if (dialog.exec() != QDialog::Accepted) return;
  const QString command = dialog.textValue();
  if (command.trimmed().isEmpty()) return;
  try {
    session_.apply_patch(Json::parse(patch_from_vllm_command(command.toStdString(), "command")),
                         tr("paste a command"));
  } catch (const std::exception& e) {
    show_problem(tr("Not understood"), QString::fromUtf8(e.what()));
  }
}

void Window::make_menus() {
  QMenu* const file = menuBar()->addMenu(tr("&File"));
  const auto add = [this](QMenu* menu, const QString& text, const QKeySequence& keys, auto what) {
    QAction* const a = menu->addAction(text);
    a->setShortcut(keys);
    connect(a, &QAction::triggered, this, what);
    return a;
  };
  QAction* const open_action = add(file, tr("&Open..."), QKeySequence::Open, [this] {
    if (!may_leave()) return;
    const QString f = QFileDialog::getOpenFileName(this, tr("Open a scenario"), {}, tr("Scenarios (*.json)"));
    if (!f.isEmpty()) open(f);
  });
  add(file, tr("Open &config.json..."), {}, [this] { open_model(); });
  add(file, tr("Paste a &vllm serve command..."), QKeySequence(Qt::CTRL | Qt::SHIFT | Qt::Key_V),
      [this] { paste_command(); });
  file->addSeparator();
  QAction* const save_action = add(file, tr("&Save"), QKeySequence::Save, [this] { save(false); });
  add(file, tr("Save &as..."), QKeySequence::SaveAs, [this] { save(true); });
  result_action_ = add(file, tr("Save &result..."), {}, [this] {
    if (!session_.estimated()) return;
    const QString f = QFileDialog::getSaveFileName(this, tr("Save the result"), {}, tr("Results (*.json)"));
    if (f.isEmpty()) return;
    try {
      session_.save_result(f.toStdString());
    } catch (const std::exception& error) {
      show_problem(tr("Can't be saved"), QString::fromUtf8(error.what()));
    }
  });
  QMenu* const exports = file->addMenu(tr("&Export a view"));
  for (View* v : views_) {
    connect(v, &View::save_failed, this,
            [this](const QString& message) { show_problem(tr("Can't be saved"), message); });
    // What a view has to save may come and go.
    QMenu* const of = exports->addMenu(v->title());
    connect(of, &QMenu::aboutToShow, this, [of, v] {
      of->clear();
      for (const ViewPart& part : v->parts())
        of->addAction(part.name + QStringLiteral("..."), v, [v, part] { v->ask_and_save(part); });
    });
  }
  file->addSeparator();
  add(file, tr("&Quit"), QKeySequence::Quit, [this] { close(); });

  QMenu* const edit = menuBar()->addMenu(tr("&Edit"));
  QAction* const undo = session_.history().createUndoAction(this);
  undo->setShortcut(QKeySequence::Undo);
  undo->setIconText(tr("Undo"));  // in the bar; what is undone stands in the menu and the tooltip
  QAction* const redo = session_.history().createRedoAction(this);
  redo->setShortcut(QKeySequence::Redo);
  redo->setIconText(tr("Redo"));
  edit->addAction(undo);
  edit->addAction(redo);
  edit->addSeparator();
  QAction* const pin = add(edit, tr("&Pin"), QKeySequence(Qt::CTRL | Qt::Key_P), [this] { session_.pin(); });
  pin->setToolTip(tr("Keep this result to compare with"));
  add(edit, tr("&Unpin"), {}, [this] { session_.unpin(); });
  add(edit, tr("Copy as &command line"), QKeySequence(Qt::CTRL | Qt::SHIFT | Qt::Key_C), [this] {
    QApplication::clipboard()->setText(QString::fromStdString(command_line(session_.scenario(), "simulate")));
  });
  add(edit, tr("Copy as a &server's command"), {}, [this] {
    if (const auto e = session_.estimated(); e && e->deployment())
      QApplication::clipboard()->setText(QString::fromStdString(serve_command(*e->deployment())));
  });

  QMenu* const look = menuBar()->addMenu(tr("&View"));
  for (QDockWidget* d : docks_) look->addAction(d->toggleViewAction());
  look->addSeparator();
  const auto choose = [this](const QString& name, Theme theme) {
    use_theme(theme);
    if (remember_) QSettings().setValue(kTheme, name);
  };
  add(look, tr("&Light"), {}, [choose] { choose(kLight, Theme::kLight); });
  add(look, tr("&Dark"), {}, [choose] { choose(kDark, Theme::kDark); });

  QMenu* const help = menuBar()->addMenu(tr("&Help"));
  add(help, tr("&First steps"), QKeySequence::HelpContents, [this] {
    QMessageBox::information(
        this, tr("First steps"),
        tr("On the left is the deployment: choose a model and a device, or open a scenario; drag sliders for "
           "the "
           "rest. Empty fields stand for the default.\n\n"
           "Above are the answers: latency, output, load and cost. They follow at once as an estimate, and a "
           "moment later as a simulation with 90 % intervals.\n\n"
           "The tabs say why: memory, where a step's time goes, latency over load, every request.\n\n"
           "Pin keeps a result: the view Compare sets every later one beside it. The view Plan searches the "
           "best "
           "deployment for the workload and for the limits under \"slo\"."));
  });
  add(help, tr("&About"), {}, [this] {
    QMessageBox::about(
        this, tr("Foretoken"),
        QString::fromStdString(fmt::format(
            "Foretoken {}{}\nWhat a large-language-model deployment will do, before you rent the GPUs.\n"
            "The libraries are under the Apache License 2.0; this program, with QCustomPlot, under the GPL "
            "3.",
            program_version(), git_commit().empty() ? "" : " (" + git_commit() + ")")));
  });

  QToolBar* const bar = addToolBar(tr("Actions"));
  bar->setObjectName(QStringLiteral("Actions"));
  bar->setMovable(false);
  for (QAction* a : {open_action, save_action, undo, redo, pin}) bar->addAction(a);
  bar->addSeparator();
  bar->addWidget(new Headline(session_, bar));
}

Window::Theme Window::last_theme() {
  const QString name = QSettings().value(kTheme).toString();
  return name == kLight ? Theme::kLight : name == kDark ? Theme::kDark : Theme::kSystem;
}

void Window::use_theme(Theme theme) {
  if (theme == Theme::kSystem) return;
  const bool dark = theme == Theme::kDark;
  QStyle* const fusion = QStyleFactory::create(QStringLiteral("Fusion"));
  QApplication::setStyle(dark ? new DarkStyle(fusion) : fusion);
  const QColor window = dark ? QColor(0x2b, 0x2d, 0x30) : QColor(0xf2, 0xf3, 0xf5),
               base = dark ? QColor(0x1e, 0x1f, 0x22) : QColor(Qt::white),
               other = dark ? QColor(0x26, 0x28, 0x2b) : QColor(0xf7, 0xf8, 0xfa),
               text = dark ? QColor(0xdf, 0xe1, 0xe5) : QColor(0x1a, 0x1c, 0x1f),
               faint = dark ? QColor(0x9a, 0x9f, 0xa6) : QColor(0x76, 0x7b, 0x83);
  QPalette p;
  for (const auto role : {QPalette::Window, QPalette::Button}) p.setColor(role, window);
  p.setColor(QPalette::Base, base);
  p.setColor(QPalette::AlternateBase, other);
  p.setColor(QPalette::ToolTipBase, base);
  for (const auto role : {QPalette::WindowText, QPalette::Text, QPalette::ButtonText, QPalette::ToolTipText})
    p.setColor(role, text);
  p.setColor(QPalette::PlaceholderText, faint);
  for (const auto role : {QPalette::WindowText, QPalette::Text, QPalette::ButtonText})
    p.setColor(QPalette::Disabled, role, faint);
  p.setColor(QPalette::Highlight, QColor(0x00, 0x72, 0xb2));
  p.setColor(QPalette::HighlightedText, Qt::white);
  p.setColor(QPalette::Link, dark ? QColor(0x56, 0xb4, 0xe9) : QColor(0x00, 0x72, 0xb2));
  QApplication::setPalette(p);
}

// Whether the scenario may go: saved, given up, or as it is in its file.
bool Window::may_leave() {
  if (session_.history().isClean() || QGuiApplication::platformName() == kOffscreen) return true;
  const auto answer = QMessageBox::question(this, tr("Unsaved changes"), tr("Save the scenario?"),
                                            QMessageBox::Save | QMessageBox::Discard | QMessageBox::Cancel);
  if (answer == QMessageBox::Discard) session_.history().setClean();
  return answer == QMessageBox::Discard || (answer == QMessageBox::Save && save(false));
}

void Window::closeEvent(QCloseEvent* event) {
  if (remember_) {
    // What has no file is there the next time.
    if (!session_.file().empty() && !may_leave()) {
      event->ignore();
      return;
    }
    remember_scenario();
    QSettings settings;
    settings.setValue(kGeometry, saveGeometry());
    settings.setValue(kState, saveState());
  }
  QMainWindow::closeEvent(event);
}

}  // namespace foretoken::gui
