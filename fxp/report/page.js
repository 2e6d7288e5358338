(function () {
  "use strict";
  var names = ["layer", "direction", "sequence", "element"];
  var selects = names.map(function (name) { return document.getElementById(name); });
  var panels = Array.prototype.slice.call(document.querySelectorAll(".panel"));
  var options = selects.map(function (select) { return Array.prototype.slice.call(select.options); });

  // Directions and elements depend on the layer; a choice that it lacks falls back to the first.
  function fit(number) {
    var select = selects[number], layer = selects[0].value, before = select.value;
    select.textContent = "";
    options[number].forEach(function (option) {
      if (option.dataset.layer === layer) { select.appendChild(option); }
    });
    select.value = before;
    if (select.selectedIndex < 0) { select.selectedIndex = 0; }
    select.parentNode.hidden = select.options.length < 2;
  }

  function show() {
    fit(1);
    fit(3);
    panels.forEach(function (panel) {
      panel.hidden = !names.every(function (name, number) {
        return panel.dataset[name] === undefined || panel.dataset[name] === selects[number].value;
      });
    });
    document.getElementById("shown").textContent = "Showing " + names.map(function (name, number) {
      var option = selects[number].options[selects[number].selectedIndex];
      return option && !(name === "direction" && selects[number].options.length < 2)
        ? name + " " + option.textContent : "";
    }).filter(Boolean).join(", ");
  }

  selects.forEach(function (select, number) {
    if (number === 0 || number === 2) { select.parentNode.hidden = select.options.length < 2; }
    select.addEventListener("change", show);
  });
  document.documentElement.className = "js";
  show();
})();
