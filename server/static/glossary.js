// The words of clinicians and of machine learning, side by side; each has its meaning as a title.

import { h } from "./dom.js";

const WORDS = {
  val_recall: ["Sensitivity", "sensitivity (recall)", "Of the images that show pneumonia, the share that the model calls positive."],
  val_specificity: ["Specificity", "specificity", "Of the images without pneumonia, the share that the model calls negative."],
  val_precision: ["PPV", "PPV (precision)", "Of the images called positive, the share that shows pneumonia. It depends on how common pneumonia is."],
  npv: ["NPV", "NPV", "Of the images called negative, the share without pneumonia. It depends on how common pneumonia is."],
  val_f1: ["F1", "F1", "The harmonic mean of sensitivity and PPV."],
  val_auroc: ["AUROC", "AUROC", "The probability that a positive image has a higher score than a negative one; 0.5 is chance."],
  val_accuracy: ["Accuracy", "accuracy", "The share of images that are called right."],
  val_recall_at_specificity: ["Sens. at spec.", "sensitivity at specificity", "The sensitivity where the threshold gives experiment.target_specificity."],
  val_loss: ["Val. loss", "validation loss", "Binary cross-entropy on the validation images: lower is better."],
  train_loss: ["Train loss", "training loss", "Binary cross-entropy while the weights change: lower is better."],
  learning_rate: ["Learning rate", "learning rate", "The step size of the optimizer."],
  train_accuracy: ["Train acc.", "training accuracy", "The share of training images that are called right, augmentation included."],
  epoch_seconds: ["Epoch time", "seconds per epoch", "Training and validation of one epoch."],
  threshold: ["Threshold", "threshold", "A score at or above it is called positive."],
  confusion: ["Confusion matrix", "confusion matrix", "How many images of each class are called what."],
};

export const FIGURES = ["val_recall", "val_specificity", "val_precision", "val_f1", "val_auroc"];
export const LOW_IS_GOOD = ["val_loss", "train_loss"];

export const short = (key) => WORDS[key]?.[0] ?? key;
export const long = (key) => WORDS[key]?.[1] ?? key;
export const meaning = (key) => WORDS[key]?.[2];

// The long name with its meaning on hover.
export const term = (key, text = long(key)) => (meaning(key) ? h("abbr", { title: meaning(key) }, text) : text);
