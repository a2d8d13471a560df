"""From a package to the version that serves: model repository, manifest, publish, release table, routing, swap. Knows no HTTP."""
