"""Files and directories: arrays with a manifest, resumable rows, result lists."""
