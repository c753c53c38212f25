import sys
from pathlib import Path

# the helpers beside the tests also run as scripts in processes of their own
sys.path.append(str(Path(__file__).parent))
