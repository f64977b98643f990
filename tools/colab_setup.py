# Setup. On Colab and Kaggle: fetch the course, and keep the torch that is there. Elsewhere: find it around this notebook.
import os
import runpy
import sys

COURSE_URL = "https://github.com/OWNER/pictures-from-noise"
if ("google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ) and not os.path.isdir("../course_utils"):
    assert "/OWNER/" not in COURSE_URL, "Write the address of the course's public repository into COURSE_URL, above."
    fetch = f"rm -rf course.part && git clone -q --depth 1 {COURSE_URL} course.part && mv course.part course"
    assert os.path.isdir("course") or os.system(fetch) == 0, f"Cannot fetch {COURSE_URL}: is the Internet turned on?"
    runpy.run_path("course/tools/hosted.py", run_name="__main__")
    os.chdir("course/notebooks")
sys.path.insert(0, os.path.abspath("." if os.path.isdir("course_utils") else ".."))
