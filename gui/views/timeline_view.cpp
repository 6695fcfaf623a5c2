#include <QLabel>
#include <QVBoxLayout>

#include "gui/view.h"

namespace foretoken::gui {
namespace {

class TimelineView : public View {
 public:
  explicit TimelineView(Session& session) : View(session, tr("Timeline")) {}
};

}  // namespace

View* make_timeline_view(Session& session) { return new TimelineView(session); }

}  // namespace foretoken::gui
