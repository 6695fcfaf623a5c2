#include <QLabel>
#include <QVBoxLayout>

#include "gui/view.h"

namespace foretoken::gui {
namespace {

class ParetoView : public View {
 public:
  explicit ParetoView(Session& session) : View(session, tr("Pareto")) {}
};

}  // namespace

View* make_pareto_view(Session& session) { return new ParetoView(session); }

}  // namespace foretoken::gui
