//! What each protocol needs on the appliance, behind one trait.
