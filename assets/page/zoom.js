// Enlarge the picture of a scan, and keep the spot in its middle when another slice is drawn.
(value) => {
  document.documentElement.style.setProperty("--zoom", value);
  const viewer = document.getElementById("viewer");
  const restore = () => {
    const stage = viewer.querySelector(".stage");
    if (!stage) return;
    stage.scrollLeft = viewer.spot.x * stage.scrollWidth - stage.clientWidth / 2;
    stage.scrollTop = viewer.spot.y * stage.scrollHeight - stage.clientHeight / 2;
  };
  if (!viewer.spot) {
    viewer.spot = { x: 0.5, y: 0.5 };
    viewer.addEventListener("scroll", ({ target }) => {
      if (!target.classList?.contains("stage")) return;
      viewer.spot.x = (target.scrollLeft + target.clientWidth / 2) / target.scrollWidth;
      viewer.spot.y = (target.scrollTop + target.clientHeight / 2) / target.scrollHeight;
    }, true);
    new MutationObserver(restore).observe(viewer, { childList: true, subtree: true });
  }
  restore();
  return [];
}
