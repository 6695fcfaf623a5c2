-- Version 2: what the machine ran at when it was measured, and what held-out rows say of the interpolation.
ALTER TABLE series ADD COLUMN driver TEXT NOT NULL DEFAULT '';
ALTER TABLE series ADD COLUMN clock_mhz REAL NOT NULL DEFAULT 0;

-- Absolute relative errors of rows that the lookup was not shown.
-- method: point (inside a measured curve), shape (whole shape held out), engine (another engine's row).
CREATE TABLE residual (
  device TEXT NOT NULL, kind TEXT NOT NULL, dtype TEXT NOT NULL, method TEXT NOT NULL,
  samples INTEGER NOT NULL, median REAL NOT NULL, p90 REAL NOT NULL,
  PRIMARY KEY (device, kind, dtype, method)
) STRICT, WITHOUT ROWID;
