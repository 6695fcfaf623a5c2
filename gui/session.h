// The scenario that is explored, its history, and the answers to it. Estimates are made at once; simulations
// by a worker after a pause, and given up when the scenario changes. Errors come as signals with the place.
#pragma once

#include <QObject>
#include <QTimer>
#include <QUndoStack>
#include <atomic>
#include <filesystem>
#include <memory>

#include "base/json.h"
#include "gui/provenance.h"
#include "gui/what_if.h"
#include "simulator/plan.h"

namespace foretoken::gui {

class Session : public QObject {
  Q_OBJECT

 public:
  explicit Session(QObject* parent = nullptr);
  ~Session() override;

  // Throw Error and change nothing where the file can't be read.
  void open(const std::filesystem::path& file);
  void save(const std::filesystem::path& file);
  // Of the scenario as it stands, with context, date and the command that gives the same numbers. Throws
  // Error.
  void save_result(const std::filesystem::path& file) const;
  // What the answers to a scenario rest on, to be written into what is saved of them.
  Provenance provenance(const QString& title) const { return provenance(title, *scenario_); }
  Provenance provenance(const QString& title, const Json& scenario) const;
  // Reads the hardware database anew, as after a calibration, and answers with it.
  void reload_database();
  void set_scenario(const Json& scenario, const QString& what);  // as one undoable step
  // Sets the value at a JSON pointer, or removes it (null). Edits of one place that follow one another while
  // dragging are one step back.
  void edit(const std::string& pointer, const Json& value, bool dragging = false);
  void apply_patch(const Json& patch, const QString& what);

  const Json& scenario() const { return *scenario_; }
  const std::filesystem::path& file() const { return file_; }
  std::string name() const;  // for messages and titles
  QUndoStack& history() { return history_; }
  std::shared_ptr<const World> world() const { return world_; }

  // What is known of the scenario as it stands; null: nothing (yet), or it is wrong.
  std::shared_ptr<const Estimated> estimated() const { return estimated_; }
  std::shared_ptr<const Simulated> simulated() const { return simulated_; }
  std::shared_ptr<const LoadSweep> sweep() const { return sweep_; }
  std::shared_ptr<const std::vector<FitLimit>> limits() const { return limits_; }
  std::shared_ptr<const PlanResult> planned() const { return planned_; }
  const Json& planned_scenario() const { return *planned_scenario_; }  // that planned() is of

  // The answers to compare with.
  void pin();
  // Another than the one that is explored, with paths as in a file there; its answers come as those do.
  void pin(const Json& scenario, const std::filesystem::path& file);
  void unpin();
  bool has_pin() const { return pinned_scenario_ != nullptr; }
  const Json& pinned_scenario() const { return *pinned_scenario_; }  // has_pin()
  const std::filesystem::path& pinned_file() const { return pinned_file_; }
  std::shared_ptr<const Estimated> pinned() const { return pinned_; }
  std::shared_ptr<const Simulated> pinned_simulation() const { return pinned_simulation_; }

  bool is_busy() const { return running_ > 0 || pause_.isActive(); }
  void wait();  // until nothing is running; for tests and screenshots

  void start_plan();
  void cancel_plan();
  bool is_planning() const { return planning_; }

 Q_SIGNALS:
  void edited();  // the scenario is another one
  void estimated_anew();
  void simulated_anew();
  void intervals_anew();  // of the simulation
  void limits_anew();
  void swept_anew();
  void pinned_anew();
  void planned_anew();
  void plan_progress(qint64 done, qint64 total);
  void failed(const QString& where, const QString& message);  // where: a JSON pointer, or empty
  void worked();                                              // no error any more
  void busy(bool is);

 private:
  class Edit;
  void become(const Json& scenario);
  void update();
  void start_work();
  void answer(const std::shared_ptr<std::atomic<bool>>& stop, std::function<void()> with);
  void report(const std::exception& error);
  void begin_work();
  void end_work();

  std::unique_ptr<Json> scenario_;
  std::filesystem::path file_;
  std::shared_ptr<const World> world_;
  std::shared_ptr<const Estimated> estimated_, pinned_;
  std::shared_ptr<Simulated> simulated_;
  std::shared_ptr<const Simulated> pinned_simulation_;
  std::shared_ptr<const std::vector<FitLimit>> limits_;
  std::shared_ptr<const LoadSweep> sweep_;
  std::shared_ptr<const PlanResult> planned_;
  std::unique_ptr<Json> pinned_scenario_;  // null: nothing is pinned
  std::filesystem::path pinned_file_;      // that was open then
  std::unique_ptr<Json> planned_scenario_;
  QUndoStack history_;
  QTimer pause_;
  std::shared_ptr<std::atomic<bool>> stop_;  // of the simulation that runs
  std::shared_ptr<std::atomic<bool>> stop_plan_, stop_pin_;
  int running_ = 0;
  bool planning_ = false;
};

}  // namespace foretoken::gui
