// Repairs what Sphinx and its theme write wrongly for screen readers.
document.addEventListener("DOMContentLoaded", () => {
  // The arrows that unfold the navigation have no name.
  for (const arrow of document.querySelectorAll("nav details > summary")) {
    const link = arrow.closest("li")?.querySelector("a");
    arrow.setAttribute("aria-label", `Pages under ${link?.textContent.trim() ?? "this"}`);
  }
  // A list of works holds list items.
  for (const work of document.querySelectorAll(".citation-list > .citation")) {
    work.setAttribute("role", "listitem");
  }
  // A signature that takes several lines is no list of definitions.
  for (const line of document.querySelectorAll(".sig dl, .sig dd")) {
    line.setAttribute("role", "none");
  }
});
