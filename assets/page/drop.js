// Images dropped anywhere on Predict, or pasted, go to its upload box; no dropped file ever takes the page's place.
{
  const viewer = () => document.querySelector("#viewer");
  const shown = () => viewer()?.offsetParent != null;
  const mark = (on) => viewer()?.classList.toggle("over", on);
  const bring = (files) => {
    const input = document.querySelector("#upload input[type=file]");
    if (!shown() || !input || !files.length) return false;
    input.files = files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  };
  document.addEventListener("dragover", (event) => {
    if (event.defaultPrevented || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = shown() ? "copy" : "none";
    mark(shown());
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? mark(false));
  document.addEventListener("drop", (event) => {
    mark(false);
    if (event.defaultPrevented || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    bring(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (!event.target.closest?.("input, textarea") && bring(event.clipboardData.files)) event.preventDefault();
  });
}
