// Models by the names that requests may ask them by: their own, and MODEL:ADAPTER for each of their LoRA adapters.

const idOf = (model, adapter) => `${model.name}:${adapter}`;

/** All names, each model's adapters behind it. */
export const namesOf = (models) =>
  models.flatMap((model) => [model.name, ...(model.adapters ?? []).map((adapter) => idOf(model, adapter))]);

/** The model of a name, called by that name; null if there is none. */
export function modelNamed(models, name) {
  for (const model of models) {
    if (model.name === name) return model;
    if ((model.adapters ?? []).some((adapter) => idOf(model, adapter) === name)) return { ...model, name };
  }
  return null;
}
