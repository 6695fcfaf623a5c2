-- Version 5: terms of an engine's model, fitted to the user's own servers (`foretoken calibrate --from`). Term and unit
-- are those of a scenario's engine.host_times. All terms of a fit say what it rests on; errors are mean fractions
-- over all measured values, left_out those of runs that the fit did not see.
CREATE TABLE engine_term (
  device TEXT NOT NULL, engine TEXT NOT NULL, term TEXT NOT NULL, value REAL NOT NULL,
  model TEXT NOT NULL, tensor_parallel INTEGER NOT NULL, runs INTEGER NOT NULL,
  error_before REAL NOT NULL, error_after REAL NOT NULL, error_left_out REAL NOT NULL,
  date TEXT NOT NULL, source TEXT NOT NULL,
  PRIMARY KEY (device, engine, term)
) STRICT, WITHOUT ROWID;
