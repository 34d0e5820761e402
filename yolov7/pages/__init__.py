"""Pages: one self-contained HTML file each, by the one writer of the project."""

from yolov7.pages.figures import svg_of
from yolov7.pages.page import Chart, DataTable, Facts, Image, Images, Page, Section, write_page

__all__ = ["Chart", "DataTable", "Facts", "Image", "Images", "Page", "Section", "svg_of", "write_page"]
