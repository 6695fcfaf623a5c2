// foretoken-gui: the window, or one picture of it (--screenshot).
#include <QApplication>
#include <QCommandLineParser>
#include <QScreen>
#include <QSettings>
#include <cstdio>

#include "base/error.h"
#include "cli/version.h"
#include "gui/window.h"

namespace foretoken::gui {
namespace {

constexpr int kMendable = 2;

int fail(const QString& what) {
  std::fprintf(stderr, "error: %s\n", qPrintable(what));
  return kMendable;
}

// The scenario is opened, simulated and shown, and the window (or one view) is written to a file.
int screenshot(Window& window, const QString& file, const QString& view) {
  window.session().wait();
  if (!view.isEmpty()) {
    if (window.view(view) == nullptr) {
      QStringList names;
      for (const View* v : window.views()) names << v->title();
      return fail(QStringLiteral("--view: there is no \"%1\"; there are: %2")
                      .arg(view, names.join(QStringLiteral(", "))));
    }
    window.show_view(view);
  }
  for (int i = 0; i < 5; ++i) QApplication::processEvents(QEventLoop::AllEvents, 50);
  if (!file.endsWith(QStringLiteral(".png")))
    return fail(QStringLiteral("--screenshot: %1: use a name that ends with .png").arg(file));
  QImage image = window.grab().toImage();
  add_text(image,
           window.session().provenance(view.isEmpty() ? window.windowTitle().remove(QStringLiteral("[*]"))
                                                      : window.view(view)->title()));
  if (!image.save(file)) return fail(QStringLiteral("--screenshot: %1: can't be written").arg(file));
  return 0;
}

int run(int argc, char** argv) {
  // A picture needs no display.
  for (int i = 1; i < argc; ++i)
    if (QString::fromLocal8Bit(argv[i]).startsWith(QStringLiteral("--screenshot")))
      qputenv("QT_QPA_PLATFORM", "offscreen");
  QApplication app(argc, argv);
  QApplication::setApplicationName(QStringLiteral("foretoken-gui"));
  QApplication::setOrganizationName(QStringLiteral("foretoken"));
  QApplication::setApplicationVersion(QString::fromStdString(program_version()));

  QCommandLineParser parser;
  parser.setApplicationDescription(
      QStringLiteral("What-if exploration of large-language-model deployments."));
  parser.addHelpOption();
  parser.addVersionOption();
  parser.addPositionalArgument(QStringLiteral("SCENARIO"), QStringLiteral("scenario file (JSON)"),
                               QStringLiteral("[SCENARIO]"));
  const QCommandLineOption picture(QStringLiteral("screenshot"),
                                   QStringLiteral("write a picture of the window and end"),
                                   QStringLiteral("OUT.png")),
      view(QStringLiteral("view"), QStringLiteral("the view in front"), QStringLiteral("NAME")),
      size(QStringLiteral("size"), QStringLiteral("of the window"), QStringLiteral("WxH")),
      theme(QStringLiteral("theme"), QStringLiteral("light or dark"), QStringLiteral("NAME"));
  parser.addOptions({picture, view, size, theme});
  parser.process(app);

  if (parser.isSet(theme)) {
    const QString name = parser.value(theme);
    if (name != QStringLiteral("light") && name != QStringLiteral("dark"))
      return fail(QStringLiteral("--theme: \"%1\" is neither light nor dark").arg(name));
    Window::use_theme(name == QStringLiteral("dark") ? Window::Theme::kDark : Window::Theme::kLight);
  } else if (parser.isSet(picture)) {
    Window::use_theme(Window::Theme::kLight);
  } else {
    Window::use_theme(Window::last_theme());
  }
  if (parser.positionalArguments().size() > 1) return fail(QStringLiteral("one scenario at a time"));

  Window window(!parser.isSet(picture));
  if (parser.isSet(size)) {
    const QStringList parts = parser.value(size).split(u'x');
    bool wide = false, high = false;
    const int w = parts.value(0).toInt(&wide), h = parts.value(1).toInt(&high);
    if (parts.size() != 2 || !wide || !high || w < 200 || h < 150 || w > 10000 || h > 10000)
      return fail(QStringLiteral("--size: \"%1\" is no size; write 1280x800").arg(parser.value(size)));
    window.resize(w, h);
  }
  if (!parser.positionalArguments().isEmpty()) {
    const QString file = parser.positionalArguments().front();
    if (parser.isSet(picture))
      window.session().open(file.toStdString());  // an error ends the program
    else
      window.open_given(file);
  }
  if (parser.positionalArguments().isEmpty() && !parser.isSet(picture)) window.open_last();
  window.show();
  if (parser.isSet(view) && !parser.isSet(picture)) window.show_view(parser.value(view));
  return parser.isSet(picture) ? screenshot(window, parser.value(picture), parser.value(view))
                               : QApplication::exec();
}

}  // namespace
}  // namespace foretoken::gui

int main(int argc, char** argv) {
  try {
    return foretoken::gui::run(argc, argv);
  } catch (const foretoken::Error& e) {
    return foretoken::gui::fail(QString::fromUtf8(e.what()));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "internal error: %s\n", e.what());
    return 3;
  }
}
