"""Starting and stopping the processes of `ams up`: a fork server where it works, plain subprocesses otherwise."""
