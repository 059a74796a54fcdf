import sys

from ams_pod.main import main

sys.exit(main())
