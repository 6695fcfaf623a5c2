# Installation and Debian package.
