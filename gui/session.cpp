#include "gui/session.h"

#include <QCoreApplication>
#include <QThreadPool>
#include <QUndoCommand>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"

namespace foretoken::gui {
namespace {

constexpr int kPauseMs = 80;
const QString kScenario = QStringLiteral("Source");  // keywords of the PNG specification
const QString kDate = QStringLiteral("Creation Time");

Json new_scenario() {
  return Json{{"model", "llama-3.1-8b"},
              {"hardware", Json{{"device", "h100"}}},
              {"workload", Json{{"request_rate", 4},
                                {"num_prompts", 1000},
                                {"input_len", Json{{"distribution", "fixed"}, {"value", 1024}}},
                                {"output_len", Json{{"distribution", "fixed"}, {"value", 256}}}}}};
}

// "file:/engine/max_num_seqs" -> "/engine/max_num_seqs"
QString pointer_of(const std::string& where) {
  const auto slash = where.find(":/");
  return slash == std::string::npos ? QString() : QString::fromStdString(where.substr(slash + 1));
}

}  // namespace

class Session::Edit : public QUndoCommand {
 public:
  Edit(Session& session, Json before, Json after, std::string place, bool dragging)
      : session_(session),
        before_(std::move(before)),
        after_(std::move(after)),
        place_(std::move(place)),
        dragging_(dragging) {}
  void undo() override { session_.become(before_); }
  void redo() override { session_.become(after_); }
  int id() const override { return dragging_ ? 1 : -1; }
  bool mergeWith(const QUndoCommand* other) override {
    const auto& next = static_cast<const Edit&>(*other);
    if (next.place_ != place_) return false;
    after_ = next.after_;
    return true;
  }

 private:
  Session& session_;
  Json before_, after_;
  std::string place_;
  bool dragging_;
};

Session::Session(QObject* parent) : QObject(parent), scenario_(std::make_unique<Json>(new_scenario())) {
  pause_.setSingleShot(true);
  pause_.setInterval(kPauseMs);
  connect(&pause_, &QTimer::timeout, this, &Session::start_work);
  world_ = open_world({}, name());
  update();
}

Session::~Session() {
  pause_.stop();
  if (stop_) *stop_ = true;
  for (const auto& stop : {stop_plan_, stop_pin_})
    if (stop) *stop = true;
  QThreadPool::globalInstance()->waitForDone();
}

std::string Session::name() const { return file_.empty() ? "scenario" : file_.string(); }

void Session::open(const std::filesystem::path& file) {
  const Json json = read_json(file);
  if (!json.is_object()) throw Error(file.string(), "a scenario is a JSON object; see `foretoken schema`");
  file_ = file;
  world_ = open_world(file.parent_path(), name());
  history_.clear();
  become(json);
}

void Session::save(const std::filesystem::path& file) {
  OutputFile out(file);
  for (const auto& [key, value] : provenance({}).facts)  // as comments: the scenario itself says the rest
    if (key != kScenario) out.write("// " + (key + ": " + value).toStdString() + "\n");
  out.write(dump_json(*scenario_));
  out.commit();
  if (file.parent_path() != file_.parent_path()) world_ = open_world(file.parent_path(), file.string());
  file_ = file;
  history_.setClean();
  Q_EMIT edited();
}

void Session::save_result(const std::filesystem::path& file) const {
  if (!estimated_) throw Error(file.string(), "the scenario has an error, so there is no result");
  const Estimated& e = *estimated_;
  Json json = context_json(report_context(e.input.scenario, *world_, e.warnings),
                           e.deployment() ? e.deployment()->scenario : e.input.scenario);
  for (const auto& [key, value] : provenance({}).facts)
    if (key == kDate || key == kScenario)
      json["context"][key == kDate ? "date" : "command"] = value.toStdString();
  json.update(simulated_ ? simulated_->json() : e.json());
  OutputFile out(file);
  out.write(dump_json(json));
  out.commit();
}

Provenance Session::provenance(const QString& title, const Json& scenario) const {
  Provenance p = provenance_of(title);
  p.facts.append({QStringLiteral("Database"), QString::fromStdString(world_->database.digest())});
  p.facts.append({kScenario, QString::fromStdString(command_line(scenario, "simulate"))});
  if (!file_.empty())
    p.facts.append({QStringLiteral("File"), QString::fromStdString(file_.filename().string())});
  return p;
}

void Session::reload_database() {
  world_ = open_world(file_.parent_path(), name());
  update();
}

void Session::set_scenario(const Json& scenario, const QString& what) {
  auto* step = new Edit(*this, *scenario_, scenario, "", false);
  step->setText(what);
  history_.push(step);
}

void Session::edit(const std::string& pointer, const Json& value, bool dragging) {
  Json next = *scenario_;
  if (value.is_null()) {
    const Json::json_pointer at(pointer);
    if (next.contains(at)) {
      next[at.parent_pointer()].erase(at.back());
      // No empty section is left behind.
      for (Json::json_pointer up = at.parent_pointer(); !up.empty() && next[up].empty();
           up = up.parent_pointer())
        next[up.parent_pointer()].erase(up.back());
    }
  } else {
    Json* at = &next;
    std::string rest = pointer.substr(1);
    for (auto slash = rest.find('/'); slash != std::string::npos; slash = rest.find('/')) {
      at = &(*at)[rest.substr(0, slash)];
      if (!at->is_object()) *at = Json::object();
      rest = rest.substr(slash + 1);
    }
    (*at)[rest] = value;
  }
  if (next == *scenario_) return;
  auto* step = new Edit(*this, *scenario_, std::move(next), pointer, dragging);
  step->setText(QString::fromStdString(pointer));
  history_.push(step);
}

void Session::apply_patch(const Json& patch, const QString& what) {
  Json next = *scenario_;
  next.merge_patch(patch);
  set_scenario(next, what);
}

void Session::become(const Json& scenario) {
  *scenario_ = scenario;
  Q_EMIT edited();
  update();
}

void Session::update() {
  if (stop_) *stop_ = true;
  stop_.reset();
  simulated_.reset();
  sweep_.reset();
  limits_.reset();
  try {
    estimated_ = estimate_of(*world_, *scenario_, name());
  } catch (const std::exception& e) {
    estimated_.reset();
    pause_.stop();
    report(e);
    Q_EMIT estimated_anew();
    return;
  }
  Q_EMIT worked();
  Q_EMIT estimated_anew();
  pause_.start();
  Q_EMIT busy(is_busy());
}

void Session::report(const std::exception& error) {
  if (const auto* e = dynamic_cast<const Error*>(&error))
    Q_EMIT failed(pointer_of(e->where()), QString::fromStdString(e->message()));
  else
    Q_EMIT failed({}, QString::fromUtf8(error.what()));
}

void Session::begin_work() {
  if (running_++ == 0) Q_EMIT busy(true);
}
void Session::end_work() {
  if (--running_ == 0) Q_EMIT busy(is_busy());
}

// Called by the worker: done in the window's thread, unless the scenario has become another one meanwhile.
void Session::answer(const std::shared_ptr<std::atomic<bool>>& stop, std::function<void()> with) {
  QMetaObject::invokeMethod(
      this,
      [stop, with = std::move(with)] {
        if (!*stop) with();
      },
      Qt::QueuedConnection);
}

void Session::start_work() {
  if (!estimated_) return;
  const auto stop = std::make_shared<std::atomic<bool>>(false);
  stop_ = stop;
  begin_work();
  // What is waited for most comes first.
  QThreadPool::globalInstance()->start([this, stop, world = world_, of = estimated_] {
    try {
      if (of->verdict.empty()) {
        const std::shared_ptr<Simulated> simulated = simulate_of(*world, of, stop.get());
        answer(stop, [this, simulated] {
          simulated_ = simulated;
          Q_EMIT simulated_anew();
        });
        auto intervals = intervals_of(*world, *simulated, stop.get());
        answer(stop, [this, simulated, intervals = std::move(intervals)]() mutable {
          simulated->simulation.interval = std::move(intervals);
          simulated->has_intervals = true;
          Q_EMIT intervals_anew();
        });
      }
      const auto limits = std::make_shared<const std::vector<FitLimit>>(fit_limits(*world, *of, stop.get()));
      answer(stop, [this, limits] {
        limits_ = limits;
        Q_EMIT limits_anew();
      });
      if (of->verdict.empty()) {
        const std::shared_ptr<const LoadSweep> sweep = sweep_of(*world, of, stop.get());
        answer(stop, [this, sweep] {
          sweep_ = sweep;
          Q_EMIT swept_anew();
        });
      }
    } catch (const Interrupted&) {
    } catch (const Error& e) {
      answer(stop, [this, e] { report(e); });
    } catch (const std::exception& e) {
      answer(stop, [this, what = std::string(e.what())] { report(std::runtime_error(what)); });
    }
    QMetaObject::invokeMethod(
        this, [this] { end_work(); }, Qt::QueuedConnection);
  });
}

void Session::pin() {
  if (stop_pin_) *stop_pin_ = true;
  pinned_file_ = file_;
  pinned_scenario_ = std::make_unique<Json>(*scenario_);
  pinned_ = estimated_;
  pinned_simulation_ = simulated_;
  Q_EMIT pinned_anew();
}

void Session::pin(const Json& scenario, const std::filesystem::path& file) {
  unpin();
  const std::string name = file.empty() ? "scenario" : file.string();
  const std::shared_ptr<const World> world = open_world(file.parent_path(), name);
  pinned_scenario_ = std::make_unique<Json>(scenario);
  pinned_file_ = file;
  try {
    pinned_ = estimate_of(*world, scenario, name);
  } catch (const std::exception&) {  // it has no answers, which the view Compare says
  }
  Q_EMIT pinned_anew();
  if (!pinned_ || !pinned_->verdict.empty()) return;
  const auto stop = std::make_shared<std::atomic<bool>>(false);
  stop_pin_ = stop;
  begin_work();
  QThreadPool::globalInstance()->start([this, stop, world, of = pinned_] {
    try {
      const std::shared_ptr<Simulated> simulated = simulate_of(*world, of, stop.get());
      simulated->simulation.interval = intervals_of(*world, *simulated, stop.get());
      simulated->has_intervals = true;
      answer(stop, [this, simulated] {
        pinned_simulation_ = simulated;
        Q_EMIT pinned_anew();
      });
    } catch (const std::exception&) {  // as above
    }
    QMetaObject::invokeMethod(
        this, [this] { end_work(); }, Qt::QueuedConnection);
  });
}

void Session::unpin() {
  if (stop_pin_) *stop_pin_ = true;
  pinned_scenario_.reset();
  pinned_.reset();
  pinned_simulation_.reset();
  Q_EMIT pinned_anew();
}

void Session::wait() {
  while (is_busy() || planning_) QCoreApplication::processEvents(QEventLoop::WaitForMoreEvents);
}

void Session::start_plan() {
  if (planning_) return;
  Scenario scenario;
  try {
    const ScenarioInput input = scenario_input(*scenario_, world_->resources.scenario_folder, name(), true);
    refuse_instances(input.scenario, "plan", input.file + ":");
    scenario = input.scenario;
  } catch (const std::exception& e) {
    return report(e);
  }
  planning_ = true;
  planned_.reset();
  planned_scenario_ = std::make_unique<Json>(*scenario_);
  Q_EMIT planned_anew();
  const auto stop = std::make_shared<std::atomic<bool>>(false);
  stop_plan_ = stop;
  QThreadPool::globalInstance()->start([this, stop, world = world_, scenario] {
    PlanOptions options;
    options.stop = stop.get();
    options.progress = [this](std::int64_t done, std::int64_t total) { Q_EMIT plan_progress(done, total); };
    std::shared_ptr<const PlanResult> result;
    std::exception_ptr error;
    try {
      result = std::make_shared<const PlanResult>(plan(scenario, world->resources, options));
    } catch (...) {
      error = std::current_exception();
    }
    QMetaObject::invokeMethod(
        this,
        [this, result, error] {
          planning_ = false;
          planned_ = result;
          if (error) try {
              std::rethrow_exception(error);
            } catch (const Interrupted&) {
            } catch (const std::exception& e) {
              report(e);
            }
          Q_EMIT planned_anew();
        },
        Qt::QueuedConnection);
  });
}

void Session::cancel_plan() {
  if (stop_plan_) *stop_plan_ = true;
}

}  // namespace foretoken::gui
