# Setup. On Colab: fetch the course and keep Colab's torch. Anywhere else: find the course around this notebook.
import os
import sys

COURSE_URL = "https://github.com/OWNER/pictures-from-noise"
if "google.colab" in sys.modules and not os.path.isdir("/content/course"):
    assert os.system(f"git clone -q --depth 1 {COURSE_URL} /content/course") == 0, f"cannot fetch {COURSE_URL}"
    os.system("pip list --format=freeze | grep ^torch= > torch.txt && pip install -q -c torch.txt -e /content/course")
    os.chdir("/content/course/notebooks")
sys.path.insert(0, os.path.abspath("." if os.path.isdir("course_utils") else ".."))
