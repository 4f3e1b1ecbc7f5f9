// The choice of the condition: one set of radio buttons per dimension in which the session's conditions differ.
const DIMENSIONS = ["recipe", "device", "batch_size", "threads"];

function wantedCondition() {
  return Object.fromEntries(DIMENSIONS.map((name) => {
    const input = document.querySelector(`input[name=${name}]:checked`);
    return [name, input ? input.value : String(data.groups[0].rows[0][name])];
  }));
}

// Not every combination was measured: of those with the value just chosen, the one that differs least from the rest
function chooseCondition(changed) {
  const wanted = wantedCondition();
  const fit = (group) => DIMENSIONS.reduce((sum, name) =>
    sum + (String(group.rows[0][name]) === wanted[name] ? (name === changed ? 100 : 1) : 0), 0);
  const group = data.groups.reduce((best, candidate) => (fit(candidate) > fit(best) ? candidate : best));
  for (const name of DIMENSIONS)
    for (const input of document.querySelectorAll(`input[name=${name}]`)) input.checked = input.value === String(group.rows[0][name]);
  return data.groups.indexOf(group);
}

function onCondition(changed) {
  for (const name of DIMENSIONS)
    for (const input of document.querySelectorAll(`input[name=${name}]`)) input.addEventListener("change", () => changed(name));
}
