"Single precision in all tests, on processors with bfloat16 too: many compare numbers to their last digits. Children inherit it."
import os

os.environ['CLEF_BF16'] = '0'
