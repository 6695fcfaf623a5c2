// Measures the scenario's operators on this machine: runs `foretoken calibrate`, as a process of its own,
// which the measurements need, and shows what it says and how far off its predictions were before and after.
#include <QComboBox>
#include <QCoreApplication>
#include <QDir>
#include <QElapsedTimer>
#include <QFileInfo>
#include <QHBoxLayout>
#include <QLabel>
#include <QPlainTextEdit>
#include <QProcess>
#include <QProgressBar>
#include <QPushButton>
#include <QSpinBox>
#include <QSplitter>
#include <QStandardPaths>
#include <QTemporaryDir>
#include <QTemporaryFile>
#include <QTimer>
#include <QVBoxLayout>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "gui/view.h"

namespace foretoken::gui {
namespace {

constexpr int kPatienceMs = 5000;  // between asking the program to end and ending it

// Beside this program, as both are built and installed, else on the PATH; empty: nowhere.
QString find_program() {
  const QString name = QStringLiteral("foretoken");
  const QString beside = QDir(QCoreApplication::applicationDirPath()).filePath(name);
  const QFileInfo info(beside);
  return info.isFile() && info.isExecutable() ? beside : QStandardPaths::findExecutable(name);
}

Table result_table(const Json& json) {
  Table t;
  t.title = "Calibration";
  t.columns = {{"what", QObject::tr("what").toStdString()}, {"value", QObject::tr("value").toStdString(), 4}};
  const auto count = [&](const char* key, const QString& what) {
    if (json.contains(key)) t.add({what.toStdString(), json[key].get<std::int64_t>()});
  };
  const auto percent = [&](const char* key, const QString& what) {
    if (json.contains(key)) t.add({what.toStdString(), 100 * json[key].get<double>()});
  };
  if (json.contains("device"))
    t.add({QObject::tr("device").toStdString(), json["device"].get<std::string>()});
  percent("held_out_error_before", QObject::tr("error before, median of held-out steps (%)"));
  percent("held_out_error", QObject::tr("error after, median of held-out steps (%)"));
  percent("held_out_error_p90", QObject::tr("error after, 90th percentile (%)"));
  percent("held_out_spread", QObject::tr("spread of a step's repeats, median (%)"));
  count("steps", QObject::tr("steps measured"));
  count("polluted", QObject::tr("steps left out, as another process ran meanwhile"));
  count("rows", QObject::tr("rows written to your hardware database"));
  return t;
}

class CalibrateView : public View {
 public:
  explicit CalibrateView(Session& session)
      : View(session, tr("Calibrate")),
        budget_(new QSpinBox(this)),
        backend_(new QComboBox(this)),
        start_(new QPushButton(tr("&Calibrate"), this)),
        cancel_(new QPushButton(tr("Ca&ncel"), this)),
        bar_(new QProgressBar(this)),
        note_(note_label(this)),
        log_(new QPlainTextEdit(this)),
        table_(new TableView(this)) {
    budget_->setRange(1, 36000);
    budget_->setValue(60);
    budget_->setSuffix(tr(" s"));
    budget_->setToolTip(tr("Seconds to measure for; every size is measured once at least"));
    backend_->addItems({QStringLiteral("cpu"), QStringLiteral("cuda")});
    backend_->setToolTip(tr("What executes the model"));
    log_->setReadOnly(true);
    log_->setTextInteractionFlags(Qt::TextSelectableByMouse | Qt::TextSelectableByKeyboard);
    log_->setTabChangesFocus(true);
    log_->setMaximumBlockCount(10000);
    log_->setPlaceholderText(tr("What the program says"));
    log_->setAccessibleName(tr("output of the program"));
    note_->setObjectName(QStringLiteral("note"));
    start_->setObjectName(QStringLiteral("calibrate"));
    cancel_->setObjectName(QStringLiteral("cancel"));
    bar_->setAccessibleName(tr("time measured for"));

    auto* const row = new QHBoxLayout;
    const auto field = [&](const QString& text, QWidget* widget) {
      auto* const label = new QLabel(text, this);
      label->setBuddy(widget);
      row->addWidget(label);
      row->addWidget(widget);
    };
    field(tr("&Budget:"), budget_);
    field(tr("Bac&kend:"), backend_);
    row->addWidget(start_);
    row->addWidget(cancel_);
    row->addWidget(bar_, 1);
    row->addStretch();
    auto* const split = new QSplitter(Qt::Vertical, this);
    split->addWidget(table_);
    split->addWidget(log_);
    split->setChildrenCollapsible(false);
    split->setStretchFactor(0, 3), split->setStretchFactor(1, 2);
    auto* const box = new QVBoxLayout(this);
    box->addLayout(row);
    box->addWidget(note_);
    box->addWidget(split, 1);

    clock_.setInterval(200);
    patience_.setSingleShot(true);
    connect(&clock_, &QTimer::timeout, this, &CalibrateView::show_time);
    connect(&patience_, &QTimer::timeout, &process_, &QProcess::kill);
    connect(start_, &QPushButton::clicked, this, &CalibrateView::start);
    connect(cancel_, &QPushButton::clicked, this, &CalibrateView::cancel);
    process_.setProcessChannelMode(QProcess::MergedChannels);
    connect(&process_, &QProcess::readyRead, this, &CalibrateView::read);
    connect(&process_, &QProcess::finished, this, &CalibrateView::ended);
    connect(&process_, &QProcess::errorOccurred, this, [this](QProcess::ProcessError error) {
      if (error == QProcess::FailedToStart)
        end(tr("The program can't be started: %1.").arg(process_.errorString()));
    });
    table_->setAccessibleName(tr("calibration"));
    table_->hide();
    const QString program = find_program();
    end(program.isEmpty()
            ? not_found()
            : tr("Calibrate executes the scenario's model on this machine, and writes the times of its "
                 "operators "
                 "to your hardware database, so that predictions rest on them. The machine should be idle."));
  }
  ~CalibrateView() override {
    process_.disconnect(this);
    if (process_.state() == QProcess::NotRunning) return;
    process_.terminate();
    if (!process_.waitForFinished(kPatienceMs)) process_.kill(), process_.waitForFinished();
  }
  std::vector<TableView*> tables() const override { return {table_}; }

 private:
  static QString not_found() {
    return tr("The program `foretoken` was found neither in %1 nor on the PATH; install it there, or build "
              "the "
              "target foretoken.")
        .arg(QDir::toNativeSeparators(QCoreApplication::applicationDirPath()));
  }

  // Beside the scenario's own file, as its paths are relative to that, where a file can be made there.
  std::unique_ptr<QTemporaryFile> write_scenario() {
    Json json = session_.scenario();
    if (!json.contains("name")) json["name"] = std::filesystem::path(session_.name()).stem().string();
    const std::string& folder = session_.world()->resources.scenario_folder.string();
    for (const QString& place : {QString::fromStdString(folder), QDir::tempPath()}) {
      if (place.isEmpty()) continue;
      auto file =
          std::make_unique<QTemporaryFile>(QDir(place).filePath(QStringLiteral("foretoken-XXXXXX.json")));
      if (!file->open()) continue;
      file->write(QByteArray::fromStdString(dump_json(json)));
      file->close();
      if (file->error() == QFile::NoError) return file;
    }
    return nullptr;
  }

  void start() {
    const QString program = find_program();
    log_->clear();
    table_->show_table({});
    table_->hide();
    if (program.isEmpty()) return end(not_found());
    scenario_ = write_scenario();
    results_ = std::make_unique<QTemporaryDir>();
    if (!scenario_ || !results_->isValid())
      return end(tr("The scenario can't be written to a temporary file: %1.").arg(results_->errorString()));
    cancelled_ = false;
    bar_->setRange(0, budget_->value());
    bar_->setValue(0);
    bar_->show();
    start_->setEnabled(false);
    cancel_->setEnabled(true);
    note_->setText(tr("Measuring with %1.").arg(program));
    since_.start();
    clock_.start();
    show_time();
    process_.start(program, {QStringLiteral("calibrate"), scenario_->fileName(), QStringLiteral("--budget"),
                             QString::number(budget_->value()), QStringLiteral("--backend"),
                             backend_->currentText(), QStringLiteral("--output"), QStringLiteral("json"),
                             QStringLiteral("--save"), result_file()});
  }
  QString result_file() const { return results_->filePath(QStringLiteral("calibration.json")); }

  void cancel() {
    if (process_.state() == QProcess::NotRunning) return;
    cancelled_ = true;
    cancel_->setEnabled(false);
    note_->setText(tr("Cancelling."));
    process_.terminate();
    patience_.start(kPatienceMs);
  }

  // The program tells no share of its work but on a terminal; its budget is known.
  void show_time() {
    const int seconds = static_cast<int>(since_.elapsed() / 1000);
    if (seconds <= budget_->value()) {
      bar_->setValue(seconds);
      bar_->setFormat(tr("%1 of %2 s").arg(seconds).arg(bar_->maximum()));
    } else {
      bar_->setRange(0, 0);
    }
  }

  void read() {
    const QString text = QString::fromLocal8Bit(process_.readAll());
    log_->moveCursor(QTextCursor::End);
    log_->insertPlainText(text);
    log_->moveCursor(QTextCursor::End);
  }

  void ended(int code, QProcess::ExitStatus status) {
    read();
    const QString how = status == QProcess::CrashExit ? tr("It was ended by a signal.")
                                                      : tr("It ended with exit status %1.").arg(code);
    if (cancelled_) return end(tr("Cancelled. %1").arg(how));
    Json json;
    try {
      json = read_json(result_file().toStdString());
    } catch (const Error&) {  // it has said why there is no result
    }
    if (status == QProcess::CrashExit || !json.is_object())
      return end(tr("No calibration. %1 What it said is below.").arg(how));
    table_->show_table(result_table(json));
    table_->show();
    session_.reload_database();
    end(tr("Calibrated. %1 Predictions rest on what was measured now.").arg(how));
  }

  void end(const QString& text) {
    clock_.stop();
    patience_.stop();
    scenario_.reset();
    results_.reset();
    note_->setText(text);
    bar_->hide();
    start_->setEnabled(true);
    cancel_->setEnabled(false);
  }

  QSpinBox* budget_;
  QComboBox* backend_;
  QPushButton *start_, *cancel_;
  QProgressBar* bar_;
  QLabel* note_;
  QPlainTextEdit* log_;
  TableView* table_;
  QProcess process_;
  QTimer clock_, patience_;
  QElapsedTimer since_;
  std::unique_ptr<QTemporaryFile> scenario_;
  std::unique_ptr<QTemporaryDir> results_;
  bool cancelled_ = false;
};

}  // namespace

View* make_calibrate_view(Session& session) { return new CalibrateView(session); }

}  // namespace foretoken::gui
