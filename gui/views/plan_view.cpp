#include <QLabel>
#include <QVBoxLayout>

#include "gui/view.h"

namespace foretoken::gui {
namespace {

class PlanView : public View {
 public:
  explicit PlanView(Session& session) : View(session, tr("Plan")) {}
};

}  // namespace

View* make_plan_view(Session& session) { return new PlanView(session); }

}  // namespace foretoken::gui
