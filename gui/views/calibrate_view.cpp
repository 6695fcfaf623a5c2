#include <QLabel>
#include <QVBoxLayout>

#include "gui/view.h"

namespace foretoken::gui {
namespace {

class CalibrateView : public View {
 public:
  explicit CalibrateView(Session& session) : View(session, tr("Calibrate")) {}
};

}  // namespace

View* make_calibrate_view(Session& session) { return new CalibrateView(session); }

}  // namespace foretoken::gui
