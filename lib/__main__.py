import signal

from lib.cli import main

signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
raise SystemExit(main())
