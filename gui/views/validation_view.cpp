#include <QLabel>
#include <QVBoxLayout>

#include "gui/view.h"

namespace foretoken::gui {
namespace {

class ValidationView : public View {
 public:
  explicit ValidationView(Session& session) : View(session, tr("Validation")) {}
};

}  // namespace

View* make_validation_view(Session& session) { return new ValidationView(session); }

}  // namespace foretoken::gui
