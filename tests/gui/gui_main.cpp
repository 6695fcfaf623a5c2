// One application for all tests, without a display and without the user's settings and database.
#include <gtest/gtest.h>

#include <QApplication>
#include <QStandardPaths>
#include <cstdlib>

#include "gui/window.h"

int main(int argc, char** argv) {
  qputenv("QT_QPA_PLATFORM", "offscreen");
  setenv("FORETOKEN_DATA", FORETOKEN_BINARY_DIR "/share/foretoken", 1);
  setenv("XDG_DATA_HOME", FORETOKEN_BINARY_DIR "/tests/gui/none", 1);
  if (std::getenv("XDG_RUNTIME_DIR") == nullptr) setenv("XDG_RUNTIME_DIR", FORETOKEN_BINARY_DIR, 1);
  QStandardPaths::setTestModeEnabled(true);
  testing::InitGoogleTest(&argc, argv);
  QApplication app(argc, argv);
  QApplication::setApplicationName(QStringLiteral("foretoken-gui-test"));
  QApplication::setOrganizationName(QStringLiteral("foretoken"));
  foretoken::gui::Window::use_theme(foretoken::gui::Window::Theme::kLight);
  return RUN_ALL_TESTS();
}
