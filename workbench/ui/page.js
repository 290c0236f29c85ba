() => {
  // Keys act on the page's own buttons, so that a key and a click can never differ.
  const click = (id) => {
    const button = document.getElementById(id);
    if (!button || button.disabled || button.offsetParent === null) return false;
    button.click();
    return true;
  };
  const focusPane = (place) => {
    const shown = [...document.querySelectorAll(".wb-pane")].filter((p) => p.offsetParent !== null);
    const pane = shown[place - 1];
    if (!pane) return false;
    pane.tabIndex = -1;
    pane.scrollIntoView({ block: "nearest", inline: "nearest" });
    pane.focus({ preventScroll: true });
    return true;
  };
  document.addEventListener(
    "keydown",
    (event) => {
      const inList = event.target.closest?.('[role="listbox"], [role="combobox"], [aria-expanded="true"]');
      let done = false;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) done = click("run");
      else if (event.key === "Escape" && !inList) done = click("stop");
      else if (event.altKey && /^Digit[1-4]$/.test(event.code)) done = focusPane(Number(event.code[5]));
      if (done) event.preventDefault();
    },
    true,
  );
}
