-- Version 3: held-out errors by the engine and kernel that were timed ('': over all of them) and the KV cache's type.
ALTER TABLE residual RENAME TO residual_2;
CREATE TABLE residual (
  device TEXT NOT NULL, kind TEXT NOT NULL, engine TEXT NOT NULL, kernel TEXT NOT NULL, dtype TEXT NOT NULL,
  kv_dtype TEXT NOT NULL, method TEXT NOT NULL,
  samples INTEGER NOT NULL, median REAL NOT NULL, p90 REAL NOT NULL,
  PRIMARY KEY (device, kind, engine, kernel, dtype, kv_dtype, method)
) STRICT, WITHOUT ROWID;
INSERT INTO residual SELECT device, kind, '', '', dtype, '', method, samples, median, p90 FROM residual_2;
DROP TABLE residual_2;
