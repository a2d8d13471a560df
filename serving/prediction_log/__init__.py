"""The prediction log: writer, Parquet segments, search. Knows neither gateway nor monitor."""
